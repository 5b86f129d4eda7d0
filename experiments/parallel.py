"""One run on many processes, on one machine or on several.

torchrun starts the same command several times and tells each process its rank. `joined` connects them over
TCP, by gloo:

    torchrun --standalone --nproc-per-node 2 test.py

`compute` splits independent pieces of work over the ranks, `all_reduce_gradients` lets all ranks train one network.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from experiments.commandline import CommandError
from experiments.results import Piece, Record, Store

PATIENCE = timedelta(days=1)
"""How long ranks wait for each other: they may finish hours apart. One that dies is noticed at once."""


class LostRankError(CommandError):
    """Another process of the run ended, or cannot be reached any more."""


@contextmanager
def joined() -> Iterator[int]:
    """Join the processes that torchrun started together, if it did; yield the rank of this one, 0 when alone.

    Raises:
        LostRankError: what torchrun sets in the environment makes no sense, or nobody is there to join.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # torchrun sets it; RANK and the like may be left from elsewhere
        yield 0
        return
    try:
        dist.init_process_group("gloo", timeout=PATIENCE)
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise LostRankError(
            f"the processes of this run cannot join ({reason}): start it with torchrun, or unset TORCHELASTIC_RUN_ID"
        ) from error
    try:
        yield dist.get_rank()
    finally:
        dist.destroy_process_group()


def compute(
    pieces: Iterable[Piece],
    work: Callable[[str, int], Record],
    store: Store | None = None,
    resume: bool = False,
    on_piece: Callable[[str, int, Record], None] | None = None,
) -> dict[Piece, Record] | None:
    """Compute pieces of work, each on one rank, keep every finished one in `store`, and gather all on rank 0.

    Each rank takes a stretch of them. A record must follow from its piece alone: then it does not matter where it is
    computed. With several machines, finished pieces may lie on any of them.

    Args:
        work: returns the record of a piece.
        resume: whether to use what `store` holds already.
        on_piece: called on rank 0 with each piece and its record, once known.

    Returns:
        on rank 0 piece -> record, in the order of `pieces`; None on the others.

    Raises:
        ResultsError: see `Store.load`.
        LostRankError: another rank ended; finished pieces are kept.
    """
    pieces, on_piece = list(pieces), on_piece or (lambda *news: None)
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    records: dict[Piece, Record] = {}
    if store and resume:
        records = {piece: record for piece in pieces if (record := store.load(piece)) is not None}
    known = list(records)
    finished = {piece for part in _all_gathered(known) for piece in part}
    todo = [piece for piece in pieces if piece not in finished]
    if rank == 0:
        if store and resume and not finished:
            print(f"{store.rounds} has no finished round of this run: it starts from the beginning", file=sys.stderr)
        for piece in known:
            on_piece(*piece, records[piece])
    for piece in todo[len(todo) * rank // ranks : len(todo) * (rank + 1) // ranks]:
        records[piece] = work(*piece)
        if store:
            store.save(piece, records[piece])
        if rank == 0:
            on_piece(*piece, records[piece])
    everything = _gathered(records)
    if rank != 0:
        return None
    for piece in pieces:
        if piece not in records:
            on_piece(*piece, everything[piece])
    return {piece: everything[piece] for piece in pieces}


def all_reduce_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace every gradient with its sum over all ranks, in one exchange.

    Call it between `backward` and `step`, when every rank has its share of the batch. The sum is the gradient of a loss
    that sums over the whole batch.

    Raises:
        ValueError: a parameter has no gradient.
        LostRankError: another rank ended.
    """
    gradients = [parameter.grad for parameter in parameters]
    if any(gradient is None for gradient in gradients):
        raise ValueError("a parameter has no gradient: call all_reduce_gradients after backward")
    if not dist.is_initialized():
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    with _connection():
        dist.all_reduce(flat)
    for gradient, total in zip(gradients, flat.split([gradient.numel() for gradient in gradients])):
        gradient.copy_(total.view_as(gradient))


def _all_gathered(value: Any) -> list[Any]:
    if not dist.is_initialized():
        return [value]
    values = [None] * dist.get_world_size()
    with _connection():
        dist.all_gather_object(values, value)
    return values


def _gathered(records: dict[Piece, Record]) -> dict[Piece, Record]:
    # On rank 0 the records of all ranks; the others need not hold them.
    if not dist.is_initialized():
        return records
    parts = [{}] * dist.get_world_size() if dist.get_rank() == 0 else None
    with _connection():
        dist.gather_object(records, parts)
    return {piece: record for part in parts or () for piece, record in part.items()}


@contextmanager
def _connection() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = str(error).split(". ")[0]
        raise LostRankError(f"another process of this run ended or cannot be reached ({reason})") from error
