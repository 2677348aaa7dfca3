"""The loader: the same samples whoever cuts them, whenever, and however many processes."""

import errno
import multiprocessing
import os
import signal

import numpy as np
import pytest
import torch

import deepseg.data.segments.loader as module
from deepseg.config.blocks.augmentation import Augmentation
from deepseg.config.blocks.sampling import Sampling
from deepseg.data.case_cache import open_prepared
from deepseg.data.segments.loader import BatchShard, SegmentLoader
from deepseg.data.segments.segment_dataset import SegmentDataset, SegmentRules
from deepseg.errors import DeepsegError
from deepseg.geometry.context import NetworkGeometry, PathwayGeometry
from deepseg.storage.atomic import write_json

GEOMETRY = NetworkGeometry(
    (PathwayGeometry((1, 1, 1), (4, 4, 4)), PathwayGeometry((3, 3, 3), (4, 4, 4))),
    (0, 0, 0),
    "centred",
)


@pytest.fixture
def folders(tmp_path):
    rng = np.random.default_rng(0)
    new = []
    for number, shape in enumerate([(14, 16, 18), (17, 13, 15), (12, 12, 12)]):
        folder = tmp_path / f"case{number}"
        folder.mkdir()
        labels = np.zeros(shape, np.uint8)
        if number < 2:
            labels[4:8, 5:9, 6:9] = 1
        roi = np.zeros(shape, bool)
        roi[2:-2, 2:-2, 2:-2] = number < 2  # the last case has an empty region of interest
        np.save(folder / "channels.npy", rng.normal(size=(2, *shape)).astype(np.float32))
        np.save(folder / "labels.npy", labels)
        np.save(folder / "roi.npy", roi)
        record = {"name": f"case{number}", "shape": shape, "affine": np.eye(4).tolist()}
        write_json(folder / "case.json", record)
        new.append(folder)
    return new


def rules(**changes) -> SegmentRules:
    settings = {
        "sampling": Sampling(type="foreground_background"),
        "classes": ("background", "lesion"),
        "geometry": GEOMETRY,
        "size": (9, 8, 7),
        "segments": 10,
        "cases": 5,
        "augmentation": Augmentation.model_validate(
            {"reflect": [0.5, 0.5, 0.5], "affine": {"probability": 0.5}}
        ),
        "seed": 3,
        "is_training": True,
        **changes,
    }
    return SegmentRules(**settings)


def batches(folders, *, workers=0, first=0, subepochs=2, **changes):
    source = SegmentDataset(folders, rules(**changes))
    with SegmentLoader(source, batch_size=4, workers=workers, first=first) as stream:
        return [list(stream.subepoch()) for _ in range(subepochs)]


def same(one, other) -> bool:
    return all(
        a.cases == b.cases
        and torch.equal(a.labels, b.labels)
        and all(torch.equal(x, y) for x, y in zip(a.inputs, b.inputs, strict=True))
        for a, b in zip(one, other, strict=True)
    )


def test_a_subepoch_gives_every_segment_once_in_batches(folders):
    first, second = batches(folders)
    assert [len(batch.cases) for batch in first] == [4, 4, 2]
    assert [tuple(x.shape) for x in first[0].inputs] == [(4, 2, 9, 8, 7), (4, 2, 6, 6, 5)]
    assert tuple(first[0].labels.shape) == (4, 5, 4, 3)
    assert first[0].labels.dtype == torch.int64
    assert {name for batch in first + second for name in batch.cases} == {"case0", "case1"}


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_nothing(folders, workers):
    alone, helped = batches(folders), batches(folders, workers=workers)
    assert all(same(first, second) for first, second in zip(alone, helped, strict=True))


def test_a_stream_that_begins_later_gives_what_would_have_come_then(folders):
    whole, late = batches(folders, subepochs=3), batches(folders, first=2, subepochs=1)
    assert same(whole[2], late[0])
    assert not same(whole[0], late[0])


def test_another_seed_and_validation_give_other_samples(folders):
    plain = batches(folders, subepochs=1)[0]
    assert not same(plain, batches(folders, subepochs=1, seed=4)[0])
    assert not same(plain, batches(folders, subepochs=1, is_training=False)[0])


def test_half_of_the_segments_are_centred_on_the_foreground(folders):
    centres = torch.cat(
        [
            batch.labels[:, 2, 1, 1]
            for batch in batches(folders, subepochs=1, segments=40, augmentation=None)[0]
        ]
    )
    # a prediction of 5 x 4 x 3 around a centre: the centre is its voxel (2, 1, 1)
    assert (centres == 1).sum() == 20


def test_cases_without_candidates_are_named(folders):
    source = SegmentDataset(folders, rules())
    assert source.without_candidates() == ["case2"]
    assert source.counts[0] == (48, 10 * 12 * 14 - 48)


def test_unaugmented_segments_are_cut_from_the_prepared_arrays(folders):
    batch = batches(folders, subepochs=1, segments=6, augmentation=None)[0][0]
    images = {folder.name: open_prepared(folder).channels for folder in folders}
    for block, name in zip(batch.inputs[0].numpy(), batch.cases, strict=True):
        voxel = block[0, 4, 3, 3]
        assert (images[name][0] == voxel).any()


def test_ranks_share_every_batch_and_stand_ins_have_no_known_voxels(folders):
    # 9 segments in batches of 4, 4 and 1 for two ranks: the second has no part of the last one.
    source = SegmentDataset(folders, rules(segments=9))
    whole, first, second = (
        list(
            SegmentLoader(
                source, batch_size=4, workers=0, first=0, shard=BatchShard(rank, world_size)
            ).subepoch()
        )
        for rank, world_size in [(0, 1), (0, 2), (1, 2)]
    )
    for batch, *parts in zip(whole[:2], first, second, strict=False):
        for rank, part in enumerate(parts):
            assert part.cases == batch.cases[rank::2]
            assert torch.equal(part.labels, batch.labels[rank::2])
            for x, share in zip(batch.inputs, part.inputs, strict=True):
                assert torch.equal(share, x[rank::2])
    assert torch.equal(first[2].labels, whole[2].labels)
    assert second[2].cases == ()
    assert second[2].labels.shape == whole[2].labels.shape
    assert bool((second[2].labels == -1).all())


def all_batches(loader, subepochs=6):
    with loader:
        return [list(loader.subepoch()) for _ in range(subepochs)]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_is_stopped_is_replaced_within_seconds(folders, monkeypatch, workers):
    monkeypatch.setattr(module, "CHECK_INTERVAL_S", 0.5)
    warnings = []
    stream = SegmentLoader(
        SegmentDataset(folders, rules()), batch_size=4, workers=workers, first=0,
        warn=warnings.append,
    )  # fmt: skip
    with stream:
        result = [list(stream.subepoch())]
        child = multiprocessing.active_children()[0]
        os.kill(child.pid, signal.SIGSTOP)
        result += [list(stream.subepoch()) for _ in range(9)]
    (warning,) = warnings
    assert warning == (
        f"[worker-killed] process {child.pid} was ended by SIGKILL; new workers go on"
    )
    alone = all_batches(
        SegmentLoader(SegmentDataset(folders, rules()), batch_size=4, workers=0, first=0), 10
    )
    assert all(same(first, second) for first, second in zip(result, alone, strict=True))


@pytest.mark.parametrize("free", [0, 64_000])
def test_with_little_shared_memory_batches_come_through_pipes(folders, monkeypatch, free):
    monkeypatch.setattr(module, "shared_memory_free", lambda: free)
    warnings = []
    result = all_batches(
        SegmentLoader(
            SegmentDataset(folders, rules()),
            batch_size=4,
            workers=2,
            first=0,
            warn=warnings.append,
        )
    )
    (warning,) = warnings
    assert warning.startswith("/dev/shm has 0 MB free, and 2 workers would fill ")
    alone = SegmentLoader(SegmentDataset(folders, rules()), batch_size=4, workers=0, first=0)
    assert all(same(*pair) for pair in zip(result, all_batches(alone), strict=True))


def refused_by_the_system():
    raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")


def test_without_processes_the_session_cuts_by_itself(folders, monkeypatch):
    monkeypatch.setattr(os, "fork", refused_by_the_system)
    warnings = []
    result = all_batches(
        SegmentLoader(
            SegmentDataset(folders, rules()),
            batch_size=4,
            workers=2,
            first=0,
            warn=warnings.append,
        )
    )
    (warning,) = warnings
    assert warning == (
        "the system lets no workers start ([Errno 11] Resource temporarily unavailable): segments "
        "are cut by the session itself, which is slower; lower workers, raise ulimit -u or -n, or "
        "make room in /dev/shm"
    )
    alone = SegmentLoader(SegmentDataset(folders, rules()), batch_size=4, workers=0, first=0)
    assert all(same(*pair) for pair in zip(result, all_batches(alone), strict=True))


def no_semaphores(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_without_room_for_semaphores_the_session_cuts_by_itself(folders, monkeypatch, capfd):
    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", no_semaphores)
    warnings = []
    stream = SegmentLoader(
        SegmentDataset(folders, rules()), batch_size=4, workers=2, first=0, warn=warnings.append
    )
    with stream:
        assert len(list(stream.subepoch())) > 0
    assert [line.partition("):")[0] for line in warnings] == [
        "the system lets no workers start ([Errno 28] No space left on device"
    ]
    assert capfd.readouterr().err == ""


def test_more_workers_than_cores_can_keep_busy_are_not_started(folders, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    warnings = []
    stream = SegmentLoader(
        SegmentDataset(folders, rules()), batch_size=4, workers=64, first=0, warn=warnings.append
    )
    with stream:
        next(stream.subepoch())
        assert len(multiprocessing.active_children()) == 4
    assert warnings == ["64 workers on a machine with 1 core: 4 are started, with the same results"]


def refuse(kind, text):
    def refused(*_, **__):
        raise kind(text)

    return refused


LIMITS = {
    "threads": ("threading._start_new_thread", refuse(RuntimeError, "can't start new thread")),
    "files": ("multiprocessing.reduction.DupFd", refuse(OSError, "Too many open files")),
}


@pytest.mark.parametrize("limit", LIMITS)
def test_workers_that_cannot_hand_batches_over_are_done_without(folders, monkeypatch, capfd, limit):
    def only_in_the_worker(_parent):
        monkeypatch.setattr(*LIMITS[limit])

    monkeypatch.setattr("deepseg.parent_process.end_with", only_in_the_worker)
    warnings = []
    result = all_batches(
        SegmentLoader(
            SegmentDataset(folders, rules()),
            batch_size=4,
            workers=2,
            first=0,
            warn=warnings.append,
        )
    )
    assert warnings == [
        "the system lets no workers start (no threads, files or shared memory for them): segments "
        "are cut by the session itself, which is slower; lower workers, raise ulimit -u or -n, or "
        "make room in /dev/shm"
    ]
    assert capfd.readouterr().err == ""
    alone = SegmentLoader(SegmentDataset(folders, rules()), batch_size=4, workers=0, first=0)
    assert all(same(*pair) for pair in zip(result, all_batches(alone), strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_case_that_is_gone_from_the_cache_is_told_with_what_helps(folders, workers):
    dataset = SegmentDataset(folders, rules())
    stream = SegmentLoader(dataset, batch_size=4, workers=workers, first=0)
    dataset.release()
    for folder in folders:
        (folder / "channels.npy").unlink()
    with stream, pytest.raises(DeepsegError) as refusal:
        next(stream.subepoch())
    (problem,) = refusal.value.problems
    assert (problem.code, problem.fix) == (
        "cache-lost",
        "give the same command again: it prepares the case anew",
    )


def test_a_daemonic_process_cuts_by_itself(folders, monkeypatch):
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)
    warnings = []
    stream = SegmentLoader(
        SegmentDataset(folders, rules()), batch_size=4, workers=2, first=0, warn=warnings.append
    )
    with stream:
        assert len(list(stream.subepoch())) > 0
    assert warnings == [
        "this process may not start others (it is daemonic): segments are cut by the session "
        "itself, which is slower"
    ]
