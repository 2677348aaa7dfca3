"""The models that a command uses: one decision from every place that names one.

Files are named by ``-model`` and ``-load`` on the command line and by the key ``model`` of a config
file, DeepMedic's ``cnnModelFilePath``. A file either holds weights, or describes a network as
DeepMedic's ``-model`` does. Each is used, or a warning says which other one replaces it, or the
command is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from deepseg.config.cases import Preparation
from deepseg.config.load import load
from deepseg.config.model import ModelConfig
from deepseg.errors import DeepsegError, Problem, raise_if_any
from deepseg.inference.requests import model_differences
from deepseg.model.checkpoint import (
    Checkpoint,
    Origin,
    TrainingCohort,
    model_in,
    new_checkpoint,
    read_checkpoint,
)
from deepseg.model.layout import layout
from deepseg.model.provenance import FilledFrom
from deepseg.report.console import Console
from deepseg.sessions.folds.record import model_files
from deepseg.transfer.filling import planned_transfer
from deepseg.transfer.imported import ImportedModel, read_imported
from deepseg.transfer.new_parts import untrained_words
from deepseg.transfer.rules import TransferRules
from deepseg.transfer.sources.nnunet.folder import is_nnunet_folder, nnunet_folder
from deepseg.transfer.sources.nnunet.model import nnunet_config, nnunet_preparation
from deepseg.transfer.sources.tensor_bundle import latest_in_folder, looks_like_bundle
from deepseg.transfer.sources.tensor_files import is_tensor_file
from deepseg.transfer.sources.theano import refusal_of_theano_save

DESCRIPTIONS = (".yaml", ".yml", ".cfg")
IMPORTED_SETTINGS = frozenset({"batch_norm", "context_alignment"})
"""Settings that belong to DeepMedic's weights, whatever the model file says."""

Warn = Callable[[str], None]


@dataclass(frozen=True)
class NamedFiles:
    """The files that a command is given for its models, by the place that names them.

    Attributes:
        model: ``-model``.
        load: ``-load``.
        configured: The key ``model`` of the config file.
    """

    model: tuple[Path, ...] = ()
    load: Path | None = None
    configured: tuple[Path, ...] = ()


def named_files(
    model: Path | str | Sequence[Path | str] | None,
    load: Path | str | None,
    configured: Path | Sequence[Path] | None,
) -> NamedFiles:
    """The named files, of which each place may give none, one or several.

    >>> named_files("M.save", None, (Path("A.save"), Path("B.save"))).model
    (PosixPath('M.save'),)
    """
    return NamedFiles(_paths(model), None if load is None else Path(load), _paths(configured))


def _paths(files: Path | str | Sequence[Path | str] | None) -> tuple[Path, ...]:
    if files is None:
        return ()
    return (Path(files),) if isinstance(files, str | Path) else tuple(map(Path, files))


@dataclass(frozen=True)
class ModelChoice:
    """The files that are used.

    Attributes:
        weights: Files that hold weights; none for a new model.
        description: Model file from which a new model is built, or with which the weights have to
            agree; None where the weights tell everything.
        superseded: Model file of the config file in whose place the command line names weights.
        warnings: Which file replaces which.
    """

    weights: tuple[Path, ...] = ()
    description: Path | None = None
    superseded: Path | None = None
    warnings: tuple[str, ...] = ()


def model_choice(files: NamedFiles) -> ModelChoice:
    """Decide which of the named files are used.

    >>> choice = model_choice(NamedFiles((Path("M.cfg"),), configured=(Path("A.save"),)))
    >>> [str(path) for path in choice.weights], str(choice.description)
    (['A.save'], 'M.cfg')

    Raises:
        DeepsegError: ``model-not-given``, or ``models-exclude`` for files of which only one can be
            used.
    """
    raise_if_any(_exclusions(files))
    typed, typed_weights = _by_content(files.model)
    configured, configured_weights = _by_content(files.configured)
    if files.load is not None:
        typed_weights = (_in_folder(files.load, is_loaded=True),)
    weights = typed_weights or configured_weights
    if not weights and not typed and not configured:
        raise DeepsegError(
            Problem(
                code="model-not-given",
                got="no model",
                expected="a .save or a model file",
                fix="add -model FILE, or model: FILE to the config file",
            )
        )
    description = next(iter((*typed, *configured)), None)
    superseded = None
    if (
        typed_weights
        and not typed
        and configured
        and not any(map(looks_like_bundle, typed_weights))
    ):
        description, superseded = None, configured[0]
    return ModelChoice(
        weights,
        description,
        superseded,
        (*_replaced(typed_weights, configured_weights), *_replaced(typed, configured)),
    )


def session_models(files: NamedFiles, *, seed: int, warn: Warn) -> tuple[Checkpoint, ...]:
    """The models that a session applies, one or several.

    Args:
        files: All that are named.
        seed: Of a new model's weights.
        warn: Called with each warning.

    Raises:
        DeepsegError: Files that exclude each other, ``models-differ`` in channels or classes, or
            anything that is wrong with a file.
    """
    return read_models(model_choice(files), seed=seed, warn=warn)


def the_model(models: Sequence[Checkpoint]) -> Checkpoint:
    """The model with which a session begins, which takes no mean of several.

    Raises:
        DeepsegError: ``folds-model``.
    """
    if len(models) > 1:
        raise DeepsegError(
            Problem(
                code="folds-model",
                got=f"{len(models)} models to begin with",
                expected="one",
                fix=f"name one of them, such as {models[0].origin}",
            )
        )
    return models[0]


def read_models(choice: ModelChoice, *, seed: int, warn: Warn) -> tuple[Checkpoint, ...]:
    """The models in the chosen files, one or several; arguments as for `session_models`."""
    for warning in choice.warnings:
        warn(warning)
    description = None if choice.description is None else described(choice.description, warn)
    if not choice.weights:
        assert description is not None
        return (description.new(seed=seed),)
    models = tuple(_with_weights(path, description, seed=seed) for path in choice.weights)
    if choice.superseded is not None:
        _warn_of_superseded(choice.superseded, models[0], warn)
    raise_if_any(model_differences(models))
    return models


@dataclass(frozen=True)
class Description:
    """A network as a model file describes it.

    Attributes:
        file: The model file.
        config: Its settings; files of imported networks may not have been read.
        preparation: Of cases, where a model of another program is described.
    """

    file: Path
    config: ModelConfig
    preparation: Preparation | None = None

    def imported(self, model: Checkpoint | None = None) -> ImportedModel:
        """The network with all that its files of imported networks hold.

        Args:
            model: A model with weights, whose networks need not be read again.

        Raises:
            DeepsegError: Anything that is wrong with these files.
        """
        stored = None if model is None else model.config
        return read_imported(self.config, self.file, stored=stored)

    def new(self, *, seed: int) -> Checkpoint:
        """The model that is described; weights that no imported network has are drawn."""
        imported = self.imported()
        return self.checkpoint(imported, seed=seed)

    def checkpoint(self, imported: ImportedModel, *, seed: int) -> Checkpoint:
        """The model whose networks were read; of another program, with its preparation of cases."""
        model = new_checkpoint(
            imported.config, seed=seed, origin=Origin(self.file), imported=imported.weights
        )
        if model.weights.keys() != imported.weights.keys():
            return model  # some were drawn
        networks = imported.config.imported
        file = self.file if self.preparation is not None else networks[0].origin
        source = FilledFrom(
            str(file),
            sha256=networks[0].content.sha256,
            tensors=f"{len(imported.weights)} of {len(model.weights)}",
        )
        model = replace(model, provenance=replace(model.provenance, filled_from=source))
        if self.preparation is None:
            return model
        return replace(
            model,
            preparation=self.preparation,
            cohort=TrainingCohort(spacing_mm=self.preparation.spacing_mm),
        )

    def disagreements(
        self, model: Checkpoint, *, unless: frozenset[str] = frozenset()
    ) -> Iterator[Problem]:
        """The problem that the network of ``model`` is another one; none if it is this one.

        Args:
            model: A model with weights.
            unless: Facts that are not compared.
        """
        described, learnt = self._facts(self.imported(model).config), self._facts(model.config)
        facts = dict.fromkeys((*described, *learnt))
        keys = [key for key in facts if described.get(key) != learnt.get(key)]
        keys = [key for key in keys if key not in unless]
        if keys:
            yield Problem(
                code="network-differs",
                got="a model file with " + _listed(described, keys),
                expected=f"the network of {model.origin}: " + _listed(learnt, keys),
                fix="leave this file out, as the other one describes its own network; or give the "
                "weights that belong to it",
                where=str(self.file),
            )

    def applied(self, model: Checkpoint, *, unless: frozenset[str] = frozenset()) -> Checkpoint:
        """``model`` with the segments of this file, which may be of any size.

        Raises:
            DeepsegError: ``network-differs``.
        """
        raise_if_any(self.disagreements(model, unless=unless))
        config = model.config.model_copy(update={"segments": self.config.segments})
        return replace(model, config=config)

    def _facts(self, config: ModelConfig) -> dict[str, str]:
        """All that weights depend on, in words, as far as this kind of file can tell it."""
        facts = {
            "batch_norm": str(config.batch_norm),
            "context_alignment": config.context_alignment,
            "channels": ", ".join(config.channels),
            "classes": ", ".join(config.classes),
        }
        if self.file.suffix.lower() == ".cfg":  # where they have no names, and there is no key
            del facts["context_alignment"]
            facts["channels"] = str(len(config.channels))
            facts["classes"] = str(len(config.classes))
        for pathway in layout(config).pathways:
            facts[f"{pathway.name}.factor"] = str(list(pathway.geometry.factor))
            if pathway.network is not None:
                facts[f"{pathway.name}.shrink"] = str(list(pathway.geometry.shrink))
        for name, (_, weight) in layout(config).imported_weights.items():
            facts[name] = str(list(weight.shape))
        for layer in layout(config):
            for key, value in vars(layer).items():
                if key not in ("address", "depth"):
                    facts[f"{layer.address}.{key}"] = str(value)
        return facts


def described(file: Path, warn: Warn) -> Description:
    """The network that a model file describes; ``warn`` is called with warnings of its reading."""
    if is_nnunet_folder(file):
        return _described_by_nnunet(file, warn)
    loaded = load(ModelConfig, file)
    for warning in loaded.warnings:
        warn(warning)
    return Description(file, loaded.config)


def _described_by_nnunet(folder: Path, warn: Warn) -> Description:
    model = nnunet_folder(folder)
    further = [name for name in model.folds if name != model.checkpoint.parent.name]
    if further and folder == model.folder:
        warn(
            f"{folder}: the model of {model.checkpoint.parent.name}; make others of "
            f"{', '.join(further)}, and -test with all of them takes their mean"
        )
    return Description(folder, nnunet_config(model), nnunet_preparation(model))


def _listed(facts: dict[str, str], keys: Sequence[str]) -> str:
    shown = [f"{key} {facts.get(key, 'absent')}" for key in keys[:3]]
    return ", ".join(shown) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def _with_weights(path: Path, description: Description | None, *, seed: int) -> Checkpoint:
    if looks_like_bundle(path):
        return _imported(path, description, seed=seed)
    if is_tensor_file(path):
        raise DeepsegError(
            Problem(
                code="model-refused",
                got="a file of named tensors, which does not describe its network",
                expected="a .save",
                fix=f"make one of it: -newModel MODEL -pretrained {path} -layers all -out M.save",
                where=str(path),
            )
        )
    refusal = refusal_of_theano_save(path)
    if refusal is not None:
        raise DeepsegError(refusal)
    checkpoint = read_checkpoint(path)
    return checkpoint if description is None else description.applied(checkpoint)


def _imported(path: Path, description: Description | None, *, seed: int) -> Checkpoint:
    """DeepMedic's weights in the network that the model file describes."""
    if description is None:
        raise DeepsegError(
            Problem(
                code="model-not-given",
                got="a checkpoint of DeepMedic alone, which does not describe its network",
                expected="the model config that it was trained with",
                fix="add -model M.cfg; or make a .save of it once: "
                f"-newModel M.cfg -pretrained {path} -layers all -out M.save",
                where=str(path),
            )
        )
    model = description.new(seed=seed)
    planned = planned_transfer(model, path, TransferRules(layers=("all",)), seed=seed)
    return replace(planned.filled(), origin=Origin(path, "weights"))


def _warn_of_superseded(file: Path, model: Checkpoint, warn: Warn) -> None:
    """Say that the config file names another network than that of the weights on the command line.

    A file that is wrong or missing is of no use to this command, so it is no reason to end it.
    """
    try:
        differs = any(Description(file, load(ModelConfig, file).config).disagreements(model))
    except DeepsegError:
        differs = True
    if differs:
        warn(f"{file} of the config file is not used: {model.origin} on the command line is")


def _by_content(paths: Sequence[Path]) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Files that describe networks, and files that hold weights."""
    descriptions = tuple(path for path in paths if _describes(path))
    weights = (path for path in paths if not _describes(path))
    files = (_in_folder(file) for path in weights for file in model_files(path))
    return descriptions, tuple(files)


def _describes(path: Path) -> bool:
    return path.suffix.lower() in DESCRIPTIONS and not path.is_dir()


def _in_folder(path: Path, *, is_loaded: bool = False) -> Path:
    """The file that a folder stands for: a session's best model, DeepMedic's latest checkpoint.

    Args:
        path: A folder; any other path is returned as it is.
        is_loaded: ``-load`` names it: the session's last model, as in DeepMedic.
    """
    if not path.is_dir():
        return path
    last = path / "models" / "last.save"
    if is_loaded and last.is_file():
        return last
    checkpoint = latest_in_folder(path)
    return model_in(path) if checkpoint is None else checkpoint


def _exclusions(files: NamedFiles) -> Iterator[Problem]:
    descriptions, weights = _by_content(files.model)
    if files.load is not None and _describes(files.load):
        yield Problem(
            code="models-exclude",
            got=f"-load {files.load}, a model file",
            expected="a file of weights: a .save, or a checkpoint of DeepMedic",
            fix=f"give it as -model {files.load}",
        )
    elif files.load is not None and weights and not same_file(files.load, weights[0]):
        yield Problem(
            code="models-exclude",
            got=f"-load {files.load} with -model {', '.join(map(str, weights))}",
            expected="weights from one place",
            fix="give one of the two; -model beside -load is a model file",
        )
    for option, paths in (
        ("-model", descriptions),
        ("the config file", _by_content(files.configured)[0]),
    ):
        if len(paths) > 1:
            yield Problem(
                code="models-exclude",
                got=f"{len(paths)} model files in {option}: {', '.join(map(str, paths))}",
                expected="one, or several files of weights",
                fix="name one model file",
            )


def _replaced(typed: Sequence[Path], configured: Sequence[Path]) -> Iterator[str]:
    """Files of the config file in whose place the command line names others of their kind."""
    for path in configured:
        if typed and not any(same_file(path, other) for other in typed):
            names = ", ".join(map(str, typed))
            yield f"{path} of the config file is not used: {names} on the command line is"


def same_file(path: Path, other: Path) -> bool:
    """True if both paths lead to one file, there or not."""
    return path.resolve() == other.resolve()


def say_weights(models: Iterable[Checkpoint], console: Console) -> None:
    """Print where the weights of ``models`` come from, and warn of those that learnt nothing."""
    for model in models:
        console.say(f"weights: {model.origin}")
        untrained = untrained_words(model)
        if untrained is not None and not model.origin.is_new:  # refused soon, with what to do
            console.warn(f"{model.origin}: {untrained}")
