"""``-train``: train a model, or one for each fold; the same command goes on."""

from __future__ import annotations

from pathlib import Path

from deepseg.commands.cross_validation import cross_validate
from deepseg.commands.train_session import TrainSession, train_session
from deepseg.config.load import load as load_config
from deepseg.config.settings import Precision
from deepseg.config.training import TrainConfig
from deepseg.errors import DeepsegError, Problem, raise_if_any
from deepseg.sessions.folds.record import mixed_session
from deepseg.sessions.model_files import named_files
from deepseg.sessions.processes.rank_session import device_of_rank
from deepseg.sessions.processes.shard import Shard
from deepseg.sessions.training.starting_point import varied


def train(
    config_file: Path | str,
    *,
    model: Path | str | None = None,
    load: Path | str | None = None,
    reset_optimizer: bool = False,
    from_scratch: bool = False,
    seed: int | None = None,
    precision: Precision | None = None,
    shard: Shard | None = None,
    device: str = "auto",
    quiet: bool = False,
) -> Path:
    """Train as ``config_file`` says, or continue the session.

    The process of the caller stays as it was. The command line also lets its own process keep freed
    memory, which makes steps quicker and cannot be undone; a Python process that does nothing else
    may call `deepseg.cli.process.keep_freed_memory` first.

    Args:
        config_file: A train file, YAML or DeepMedic's.
        model: A `.save` or a model file; wins over the one in the train file.
        load: Weights for the network of ``model``: a `.save`, or a checkpoint of DeepMedic; of a
            session that has begun, an older model to go back to.
        reset_optimizer: Fine-tune: keep the weights of a model that was trained before, and begin
            everything else anew.
        from_scratch: Take only the architecture of the model, in a session ``<name>-scratch``.
        seed: Instead of the one in the train file, in a session ``<name>-seed<seed>``. Weights of
            ``model`` that are random are drawn anew with it; those taken from an older one stay.
        precision: Of the arithmetic; wins over the one in the train file.
        shard: Of a cross-validation, do these folds only; other processes may do the others at the
            same time.
        device: ``cpu``, ``cuda``, ``cudaN`` or ``auto``.
        quiet: Print warnings and errors only.

    Returns:
        The model file of the last epoch; of a cross-validation, the folder of its sessions.

    Raises:
        DeepsegError: Anything that is wrong with files, settings or data, before training begins.
        NumericalFailure: Values that are not finite, also with a lower learning rate.
        ReportedByPeer: Another rank failed, and tells why.
        SomeFoldsFailed: After all folds have been tried.
    """
    config_file = Path(config_file)
    loaded = load_config(TrainConfig, config_file, model_file=model)
    config = varied(loaded.config, from_scratch=from_scratch, seed=seed)
    if precision is not None:
        config = config.model_copy(update={"precision": precision})
    session = TrainSession(
        config_file,
        config,
        named_files(model, load, config.model),
        device_of_rank(device),
        loaded.warnings,
        reset_optimizer=reset_optimizer,
        from_scratch=from_scratch,
        redraw=seed is not None,
        quiet=quiet,
    )
    raise_if_any(mixed_session(config.folder, has_folds=config.folds is not None))
    if config.folds is not None:
        return cross_validate(session, folds=config.folds, shard=shard)
    if shard is not None:
        raise DeepsegError(_without_folds(shard))
    return train_session(session)


def _without_folds(shard: Shard) -> Problem:
    return Problem(
        code="command-line",
        got=f"-part {shard.number}/{shard.count} with -train of a file without folds",
        expected="a train file with the key folds, whose sessions can be shared",
        fix="leave out -part; several processes train one model together with -devices N",
    )
