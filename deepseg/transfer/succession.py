"""Several older models, one after the other: each fills what those before it left new."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from deepseg.errors import DeepsegError, Problem
from deepseg.transfer.left_behind import NOTE, left_behind
from deepseg.transfer.plan import LayerSummary, Plan, TensorPlan


def succession(plans: Sequence[Plan]) -> Plan:
    """The last of ``plans``, with those before it.

    Raises:
        DeepsegError: ``nothing-taken``, if one of them fills nothing that those before left new.
    """
    first, *later = plans
    done = [first]
    for plan in later:
        done.append(_after(plan, done))
    *earlier, last = done
    return replace(last, earlier=tuple(earlier))


def _after(plan: Plan, earlier: Sequence[Plan]) -> Plan:
    """The plan for what ``earlier`` ones left new."""
    previous = earlier[-1]
    tensors = [
        tensor.after(before, str(previous.source.file))
        for tensor, before in zip(plan.tensors, previous.tensors, strict=True)
    ]
    if not any(tensor.filled for tensor in tensors):
        raise DeepsegError(
            Problem(
                "nothing-taken",
                got="no weights that the older models before it left new",
                expected="some for each of them",
                fix="leave parts for it, such as -pathways sub1=2:normal",
                where=str(plan.source.file),
            )
        )
    used = {tensor.copy.source for tensor in tensors if tensor.copy is not None}
    source_only = tuple(name for name in plan.source.tensors if name not in used)
    layers = tuple(_summary(layer, tensors, earlier) for layer in plan.layers)
    dropped = plan.preparation.notes
    notes = [note for note in plan.notes if note not in dropped and not note.startswith(NOTE)]
    carried = next((old.preparation for old in earlier if old.preparation.preparation), None)
    preparation = plan.preparation if carried is None else carried
    if carried is None:
        notes += dropped
    elif plan.preparation.preparation not in (None, carried.preparation):
        assert plan.preparation.preparation is not None
        notes.append(
            "its cases were prepared otherwise, which does not count: "
            f"{plan.preparation.preparation.summary}"
        )
    if plan.source.config is not None:
        notes += left_behind(source_only, plan.source.tensors)
    return replace(
        plan,
        tensors=tuple(tensors),
        layers=layers,
        source_only=source_only,
        notes=tuple(notes),
        preparation=preparation,
    )


def _summary(
    layer: LayerSummary, tensors: Sequence[TensorPlan], earlier: Sequence[Plan]
) -> LayerSummary:
    """The summary of a layer of which the older models before may have filled parts, or all."""
    members = [tensor for tensor in tensors if tensor.name.startswith(f"{layer.layer}.")]
    if not layer.source or all(tensor.free is None or tensor.free.all() for tensor in members):
        return layer
    if any(tensor.filled for tensor in members):
        note = "only what was left new"
        return replace(layer, new="; ".join(filter(None, [layer.new, note])))
    files = [
        str(plan.source.file)
        for plan in earlier
        if any(summary.layer == layer.layer and summary.source for summary in plan.layers)
    ]
    return LayerSummary(layer.layer, "", "", "", f"filled from {', '.join(files)}")
