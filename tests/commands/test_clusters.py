"""The page on clusters: its jobs are parsed, and its programs run on stand-ins of libraries."""

import re
import shlex
import shutil
import sys
from types import ModuleType, SimpleNamespace

import nibabel
import numpy as np
import pytest
import yaml
from torch.distributed.run import get_args_parser

from deepseg.cli.arguments import parsed
from tests.commands.conftest import CHECKOUT

PAGE = (CHECKOUT / "documentation/clusters.md").read_text("utf-8")


def blocks(kind):
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def dask(tasks):
    def submitted(function, items):
        tasks.extend(items)
        return [lambda item=item: function(item) for item in items]

    client = SimpleNamespace(map=submitted, gather=lambda futures: [f() for f in futures])
    module = ModuleType("dask.distributed")
    module.Client = {"scheduler:8786": client}.__getitem__
    return {"dask": ModuleType("dask"), "dask.distributed": module}


def ray(tasks):
    def remote(*, num_gpus):
        assert num_gpus == 1

        def decorated(function):
            def submitted(item):
                tasks.append(item)
                return lambda: function(item)

            return SimpleNamespace(remote=submitted)

        return decorated

    module = ModuleType("ray")
    module.remote, module.get = remote, lambda futures: [future() for future in futures]
    return {"ray": module}


@pytest.mark.parametrize(("kind", "library"), [("dask", dask), ("ray", ray)])
def test_a_predictor_in_each_worker_segments_case_after_case(
    kind, library, place, model, monkeypatch
):
    (place / model).rename(place / "best.save")
    for name in ("anna", "ben"):
        (place / name).mkdir()
        for file, data in {"t1": "T1", "flair": "FLAIR", "brain": "roi"}.items():
            shutil.copy(place / f"data/d/{data}.nii.gz", place / f"{name}/{file}.nii.gz")
    tasks = []
    for name, module in library(tasks).items():
        monkeypatch.setitem(sys.modules, name, module)
    (program,) = blocks(f"python {kind}")
    names = {}
    exec(compile(program, kind, "exec"), names)
    assert tasks == ["anna", "ben"]
    assert names["files"] == ["anna_Segm.nii.gz", "ben_Segm.nii.gz"]
    assert names["predictor"].cache_info().misses == 1
    first, second = (np.asarray(nibabel.load(place / file).dataobj) for file in names["files"])
    assert np.array_equal(first, second)


def test_the_job_of_kubernetes_does_a_fold_in_each_pod():
    (manifest,) = blocks("yaml kubernetes")
    job = yaml.safe_load(manifest)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    shell, option, line = container["command"]
    assert (shell, option) == ("bash", "-c")
    shards = []
    for index in range(job["spec"]["completions"]):
        words = shlex.split(line.replace("$((JOB_COMPLETION_INDEX + 1))", str(index + 1)))
        assert words[:2] == ["exec", "deepseg"]
        shards.append(str(parsed(words[2:]).shard))
    assert shards == ["1of5", "2of5", "3of5", "4of5", "5of5"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in job["spec"]["template"]["spec"]["volumes"]}


def test_torchrun_understands_its_options():
    (line,) = re.findall(r"^srun (torchrun .*?)\n```", PAGE, re.MULTILINE | re.DOTALL)
    words = shlex.split(line.replace("\\\n", " "))[1:]
    options = get_args_parser().parse_args(words)
    assert (options.nnodes, options.nproc_per_node, options.max_restarts) == ("2", "4", 3)
    assert (options.module, options.training_script) == (True, "deepseg")
    assert parsed(options.training_script_args).command == "train"


def test_a_shell_hands_its_place_to_deepseg():
    """A signal for the batch script (``B:``) reaches deepseg only if that has taken its place."""
    script = next(block for block in blocks("bash") if "--signal=B:" in block)
    assert re.search(r"^exec deepseg ", script, re.MULTILINE)
