"""Timing things in turn, so that other work on the machine slows all of them alike."""
from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from .photos import Photo

__all__ = ['Case', 'Clock', 'Race', 'Row', 'Setup', 'Spread', 'one_thread', 'race', 'row',
           'spread']

Run = Callable[[], Any]
Figures = Mapping[str, float]
Timed = tuple[float, Any]


class Clock(NamedTuple):
    """Measures runs.

    Attributes:
        timer: Seconds, from any start; ``time.process_time`` counts what this process computes,
            whatever else the machine does.
        device: Its work is waited for.
    """
    timer: Callable[[], float] = time.perf_counter
    device: torch.device | None = None

    def __call__(self, run: Run) -> Timed:
        """Seconds of a run, and its result."""
        start = self._now()
        result = run()
        return self._now() - start, result

    def _now(self) -> float:
        if self.device is not None and self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)
        return self.timer()


class Setup(NamedTuple):
    """What all suites of operators share.

    Attributes:
        photos: What is timed on; every photo counts as much.
        classes: Class counts, a row each.
        scales: Factors on the side of the photos, for the growth over image size.
        batches: Images at once, a row each.
        threads: Compared with one thread.
        repeats: Timed runs of everything on each photo.
        seed: Of the class scores.
        device: Where the torch implementations run.
        cpu_time: Count the CPU seconds of this process instead of the wall clock, on the CPU
            alone. Rows of several threads are left out.
    """
    photos: Sequence[Photo]
    classes: Sequence[int] = (2, 3, 5, 21)
    scales: Sequence[float] = (0.25, 0.5, 1.0)
    batches: Sequence[int] = (1, 4, 16)
    threads: int = 2
    repeats: int = 2
    seed: int = 0
    device: torch.device = torch.device('cpu')
    cpu_time: bool = False

    def groups(self, size: int) -> list[list[Photo]]:
        """The photos in batches; they come again where there are too few."""
        count = max(1, len(self.photos) // size)
        return [[self.photos[(i * size + j) % len(self.photos)] for j in range(size)]
                for i in range(count)]

    def race(self, cases: Iterable[Case]) -> dict[str, Race]:
        """:func:`race` by the clock of this setup."""
        timer = time.process_time if self.cpu_time else time.perf_counter
        return race(cases, self.repeats, Clock(timer, self.device))


class Spread(NamedTuple):
    """Median and quartiles."""
    median: float
    low: float
    high: float


class Case(NamedTuple):
    """One input of a comparison.

    Attributes:
        ours: Contestants by name.
        reference: What each of them is compared with; None if there is nothing.
        pixels: Size of an image of the input; None if that does not matter.
        compare: Figures of one of our results and the reference's, such as how far they agree.
    """
    ours: Mapping[str, Run]
    reference: Run | None
    pixels: int | None
    compare: Callable[[Any, Any], Figures] | None = None


class Race(NamedTuple):
    """What one contestant did.

    Attributes:
        ours: Seconds of every run.
        reference: Seconds of the run of the reference beside it; empty without one.
        pixels: Median size of the images.
        figures: Means over the inputs.
    """
    ours: list[float]
    reference: list[float]
    pixels: int | None
    figures: dict[str, float]


class Row(NamedTuple):
    """A line of a table.

    Attributes:
        suite: Its table.
        what: What is timed, and against what.
        classes: Number of classes, if that matters.
        pixels: Of an image (the median), if that matters.
        batch: Images that go through at once.
        runs: Number of timed runs of each.
        ours_ms: Median time of our run, milliseconds.
        reference_ms: The same for the reference; None without one.
        ratio: Time of the reference / ours over the pairs of runs: above 1, ours is faster.
        figures: Agreement and whatever else the suite measures, by name.
    """
    suite: str
    what: str
    classes: int | None
    pixels: int | None
    batch: int
    runs: int
    ours_ms: float
    reference_ms: float | None
    ratio: Spread | None
    figures: dict[str, float]


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles of at least one value."""
    low, middle, high = (statistics.quantiles(values, n=4, method='inclusive')
                         if len(values) > 1 else [values[0]] * 3)
    return Spread(middle, low, high)


def race(cases: Iterable[Case], repeats: int, clock: Clock) -> dict[str, Race]:
    """Time contestants and their reference, in turn.

    Everything runs once more on the first case before it counts: compilation, caches.

    Args:
        cases (Iterable[Case]): Inputs; all have the same contestants.
        repeats (int): Timed runs on each input, at least 1.
        clock (Clock): Measures them.

    Returns:
        dict: What each contestant did.
    """
    seconds: dict[str, list[float]] = defaultdict(list)
    figures: dict[str, list[Figures]] = defaultdict(list)
    reference: list[float] = []
    pixels = []
    for index, case in enumerate(cases):
        if index == 0:
            _in_turn(case, clock, backwards=False)
        for repeat in range(repeats):
            timed, beside = _in_turn(case, clock, backwards=bool(repeat % 2))
            for name, (taken, _) in timed.items():
                seconds[name].append(taken)
            if beside is not None:
                reference.append(beside[0])
        if case.compare is not None:
            for name, (_, result) in timed.items():
                figures[name].append(case.compare(result, beside and beside[1]))
        if case.pixels is not None:
            pixels.append(case.pixels)
    size = round(statistics.median(pixels)) if pixels else None
    return {name: Race(seconds[name], reference, size, _means(figures[name])) for name in seconds}


def _in_turn(case: Case, clock: Clock, backwards: bool) -> tuple[dict[str, Timed], Timed | None]:
    """Seconds and results of all contestants, and those of the reference.

    Forth and back by turns, so that no run always follows the same one.
    """
    runs = list(case.ours.items())
    if backwards:
        beside = case.reference and clock(case.reference)
        timed = {name: clock(run) for name, run in reversed(runs)}
    else:
        timed = {name: clock(run) for name, run in runs}
        beside = case.reference and clock(case.reference)
    return timed, beside


def _means(rows: Sequence[Figures]) -> dict[str, float]:
    """Mean of each figure over the inputs that have it; NaN where none has."""
    means = {}
    for name in rows[0] if rows else ():
        known = [value[name] for value in rows if value[name] == value[name]]
        means[name] = statistics.fmean(known) if known else float('nan')
    return means


def row(suite: str, what: str, raced: Race, classes: int | None = None, batch: int = 1) -> Row:
    """The line of one contestant."""
    ratio = None
    if raced.reference:
        # A coarse clock may call a short run 0.
        pairs = zip(raced.ours, raced.reference, strict=True)
        ratio = spread([reference / max(ours, 1e-9) for ours, reference in pairs])
    return Row(suite, what, classes, raced.pixels, batch, len(raced.ours),
               1e3 * statistics.median(raced.ours),
               1e3 * statistics.median(raced.reference) if raced.reference else None, ratio,
               raced.figures)


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch computes on one thread of the CPU for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
