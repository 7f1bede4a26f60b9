"""Tells what judging a JSON message by a schema can cost, before the library that judges is asked.

What enters: the guarded schema, then decoded messages. What leaves: `Cost`, with the schema's width
at each level of a message, and for a message an upper bound of the time in nanoseconds.
`fastgw.schema.json` asks it. It must never take longer than the judging that it bounds: a schema is
walked once per level, and a message only when it is large enough to cost anything at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from fastgw.schema.json_guard import Documents
from fastgw.schema.json_width import VISIT_NS, ZERO, Lanes, Node, Nodes, note_reaching

COST_NS_MAX: Final = 150_000_000
"""LIMIT: no verdict may hold the event loop longer: the library keeps the interpreter's lock."""
LEVELS_MAX: Final = 12
"""LIMIT: levels of a message for which the width is told apart; deeper ones have the greatest."""
WIDTH_MAX: Final = 10**12
"""LIMIT: a width beyond any message that could be judged; keeps the sums small."""

UNIQUE_NS: Final = 160
"""One value under uniqueItems, measured: 74 to 156."""
BYTE_NS: Final = 10
"""One byte of a string for one pattern in linear time, measured: 1 to 10."""
STEPS_NS: Final = 500_000
"""A match that back-tracks to its limit of 10,000 steps, measured: 300,000 to 490,000."""
SQUARE_NS: Final = 3
"""Times the square of a string's length: a repetition that looks ahead at each byte."""
SMALL_NS: Final = 400
"""One integer of 64 bits compared with a rule's number, measured: 91 to 511."""
FLOAT_NS: Final = 1_000
"""One float compared with a bound, measured: 669 to 971; twice that for a single value."""
TINY_NS: Final = 14_000
"""The same for one below 1e-10, which the library writes out as a fraction."""
TINY: Final = 1e-10
HUGE_NS: Final = 7_000
"""The same for one above 1e18, measured with a fraction's multiples: a quarter of 28,000."""
HUGE: Final = 1e18
WHOLE_NS: Final = 40
"""One number of 64 bits compared with a bound that is a whole number, measured: 20 to 72."""
NUMBER_BYTE_NS: Final = 2_400
"""The most that one byte of a message costs as a number: `1e-99,`."""
MATCH_VISITS_MAX: Final = 100_000
"""LIMIT: schemas times values on the way to patterns that back-track; 50 ms at most."""
UNIQUE_BYTES_FREE: Final = 7_000
"""LIMIT: integers of 20 digits that fill so many bytes are compared each with each in time."""
UNIQUE_COMPARED: Final = 7
"""Arrays below 16 items are compared in pairs."""

_MOST: Final[Lanes] = (WIDTH_MAX, WIDTH_MAX, WIDTH_MAX, WIDTH_MAX, WIDTH_MAX, WIDTH_MAX)


@dataclass(slots=True)
class Work:
    """An upper bound of the work to judge one message.

    Args:
        ns: nanoseconds, without those for patterns that back-track.
        values: values counted.
        visits: keywords applied to values.
        levels: how deep the message nests.
    """

    ns: int
    values: int = 0
    visits: int = 0
    levels: int = 0


@dataclass(frozen=True, slots=True)
class Cost:
    """What judging by one schema can cost.

    Args:
        levels: the width for values at each level of a message, the last for all below.
        free_bytes: messages of at most so many bytes cost less than the limit, whatever they hold.
        backtracks: whether a pattern needs the engine that back-tracks.
        nodes: the schema's nodes; empty when none back-tracks.
        root: the place of the schema itself among them.
    """

    levels: tuple[Lanes, ...]
    free_bytes: int
    backtracks: bool
    nodes: list[Node]
    root: int

    def measure(self, value: Any, size: int, limit: int, visits_max: int = WIDTH_MAX) -> Work:
        """Bound the work to judge a message; stops just past `limit`.

        Args:
            value: the decoded message.
            size: its bytes.
            limit: nanoseconds.
            visits_max: keywords applied to values; it stops just past these too.
        """
        work = Work(BYTE_NS * size * max(lanes[2] for lanes in self.levels))
        uniques = depth = 0
        row: list[Any] = [value]
        while row and work.ns <= limit and work.visits <= visits_max:
            lanes = self.levels[min(depth, len(self.levels) - 1)]
            each = lanes[0] + UNIQUE_NS * uniques
            left = (limit - work.ns) // max(each, 1) + 1
            left = min(left, (visits_max - work.visits) * VISIT_NS // max(lanes[0], 1) + 1)
            if len(row) > left:
                del row[left:]
            if lanes[1] or lanes[5]:
                work.ns += _measure_numbers(row, lanes)
            if uniques:
                work.ns += uniques * _measure_unique(row, size)
            below: list[Any] = []
            for node in row:
                if isinstance(node, dict):
                    below.extend(node.values())
                elif isinstance(node, list):
                    below.extend(node)
            work.values += len(row)
            work.visits += len(row) * lanes[0] // VISIT_NS
            work.ns += len(row) * each
            uniques += lanes[4]
            row, depth = below, depth + 1
        work.levels = depth
        return work

    def measure_matches(self, value: Any, limit: int) -> int:
        """Bound the nanoseconds of patterns that back-track; stops just past `limit`."""
        # WHY each value with its own schemas: a long text beside such a pattern costs nothing.
        total = visits = 0
        stack: list[tuple[Any, list[int]]] = [(value, [self.root])]
        while stack and total <= limit:
            node, places = stack.pop()
            applied = [self.nodes[i] for i in places if self.nodes[i].reaches]
            for rule in applied:
                applied += [self.nodes[i] for i in rule.same if self.nodes[i].reaches]
                visits += 1
                if visits > MATCH_VISITS_MAX:
                    return limit + 1
            if not applied:
                continue
            if isinstance(node, str):
                total += sum(rule.own[3] for rule in applied) * _match_ns(node)
            elif isinstance(node, list):
                below = [i for rule in applied for group in rule.in_arrays for i in group]
                below = [i for i in below if self.nodes[i].reaches]
                if below:
                    stack += [(child, below) for child in node]
            elif isinstance(node, dict):
                names = sum(rule.keys[3] for rule in applied)
                # The last group holds `properties`; the others apply to any name.
                others = [i for rule in applied for group in rule.in_objects[:-1] for i in group]
                for key, child in node.items():
                    total += names * _match_ns(key)
                    below = list(others)
                    for rule in applied:
                        below += [rule.named[key]] if key in rule.named else rule.rest
                    stack += [(child, below), (key, others)]
        return total

    def count_rules(self, depth: int) -> int:
        """Count the rules that may apply to a value and to one path of values below it."""
        last = len(self.levels) - 1
        rules: int = sum(lanes[0] for lanes in self.levels[: depth + 1])
        rules += max(0, depth - last) * self.levels[last][0]
        return rules // VISIT_NS


def _match_ns(text: str) -> int:
    return STEPS_NS + SQUARE_NS * len(text) ** 2


def _measure_numbers(row: list[Any], lanes: Lanes) -> int:
    """Bound the nanoseconds to compare the numbers of one level with those of the schema."""
    compared = whole = 0
    for node in row:
        if isinstance(node, float):
            magnitude = abs(node)
            slow = TINY_NS if 0 < magnitude < TINY else HUGE_NS if magnitude > HUGE else FLOAT_NS
            compared += slow
            whole += FLOAT_NS if magnitude > HUGE else WHOLE_NS
        elif isinstance(node, int) and not isinstance(node, bool):
            bits = node.bit_length()
            # The library parses longer ones anew each time: 0.5 ms for 4,000 digits.
            cost = 2_000 + bits * bits // 300 if bits > 63 else 0
            compared += cost or SMALL_NS
            whole += cost or WHOLE_NS
    return compared * lanes[1] + whole * lanes[5]


def _measure_unique(row: list[Any], size: int) -> int:
    """Bound the nanoseconds to tell the numbers of one level apart, or what holds them."""
    # WHY: the library hashes an integer as binary64, so those that round to one are compared each
    # with each, and with them all that holds them.
    total = 0
    alike: dict[float, set[int]] = {}
    for node in row:
        if isinstance(node, float):
            total += UNIQUE_COMPARED * (TINY_NS if 0 < abs(node) < TINY else FLOAT_NS) // 16
        elif isinstance(node, int) and node.bit_length() > 53:
            bits = node.bit_length()
            alike.setdefault(float(node) if bits < 1024 else math.inf, set()).add(node)
    for group in alike.values():
        if len(group) > 1:
            bits = max(map(int.bit_length, group))
            pair = 800 + bits * bits // 300 if bits > 63 else 100
            total += len(group) ** 2 // 2 * pair + len(group) * size * 5
    return total


def measure_schema(documents: Documents, is_linear: Callable[[str], bool] | None) -> Cost:
    """Measure how wide a schema is.

    Args:
        documents: the guarded schema.
        is_linear: tells whether a pattern runs in linear time; None when all do.
    """
    nodes = Nodes(documents, is_linear)
    root = nodes.add(documents.root)
    note_reaching(nodes.nodes)
    # WHY: where a schema leads back to itself, sums over cycles grow with each level; but the
    # library remembers what it has judged, so that a value costs each expanded node once.
    bounded = documents.recursive and documents.branching
    cap = _expand(nodes.nodes, root, {}) if bounded else _MOST
    widths = [ZERO] * len(nodes.nodes)
    levels: list[Lanes] = []
    for level in range(LEVELS_MAX):
        widths = _sum_level(nodes.nodes, nodes.order, widths, level)
        if level and not any(any(lanes) for lanes in widths):
            break
        levels.append(_min_both(widths[root], cap))
    else:
        levels[-1] = _max_all([*levels, cap] if bounded and levels[-1] != levels[-2] else levels)
    return Cost(
        tuple(levels),
        _find_free_bytes(levels, documents),
        nodes.nodes[root].reaches,
        nodes.nodes if nodes.nodes[root].reaches else [],
        root,
    )


def _find_free_bytes(levels: list[Lanes], documents: Documents) -> int:
    """Find the size up to which no message can reach the limit."""
    visit, numbers, linear, hard, _, whole = _max_all(levels)
    uniques = sum(lanes[4] for lanes in levels)
    if hard or (uniques and documents.recursive):
        return 0
    a_byte = visit // 2 + UNIQUE_NS * uniques // 2 + BYTE_NS * linear
    # A whole bound costs the more the longer an integer is: 150 ns a byte for 4,300 digits.
    a_byte += NUMBER_BYTE_NS * (numbers + UNIQUE_COMPARED * uniques) + 200 * whole
    free: int = COST_NS_MAX // max(a_byte, 1)
    return min(free, UNIQUE_BYTES_FREE // uniques) if uniques else free


def _sum_level(nodes: list[Node], order: list[int], above: list[Lanes], level: int) -> list[Lanes]:
    """Sum what nodes cost a value `level` levels below the one that they are applied to."""
    sums = [ZERO] * len(nodes)
    for place in order:
        node = nodes[place]
        if not level:
            total = node.own
        else:
            objects = _add_all([_max_all([above[i] for i in set(g)]) for g in node.in_objects if g])
            arrays = _add_all([_max_all([above[i] for i in set(g)]) for g in node.in_arrays if g])
            total = _max_all([objects, arrays])
            if level == 1:
                total = _add_all([total, node.keys])
        if node.same:
            total = _add_all([total, *(sums[child] for child in node.same)])
        sums[place] = total
    return sums


def _expand(nodes: list[Node], place: int, memo: dict[int, Lanes]) -> Lanes:
    """Sum a node and all that it leads to, each reference replaced by its target, cycles cut."""
    if place in memo:
        return memo[place]
    node = nodes[place]
    memo[place] = node.own
    groups = (*node.in_objects, *node.in_arrays, node.same)
    below = [_expand(nodes, child, memo) for group in groups for child in group]
    memo[place] = _add_all([node.own, node.keys, *below])
    return memo[place]


def _min_both(one: Lanes, other: Lanes) -> Any:
    return tuple(map(min, one, other))


def _add_all(lanes: Any) -> Any:
    rows = [row for row in lanes if row is not ZERO]
    if len(rows) < 2:
        return rows[0] if rows else ZERO
    return tuple(min(sum(column), WIDTH_MAX) for column in zip(*rows, strict=True))


def _max_all(lanes: list[Any]) -> Any:
    rows = [row for row in lanes if row is not ZERO]
    if len(rows) < 2:
        return rows[0] if rows else ZERO
    return tuple(max(column) for column in zip(*rows, strict=True))
