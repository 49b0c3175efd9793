"""Where the rules for key frequencies differ: by doubles of key frequencies, which are expected, or by more."""

from grokinterp.measures import Reference


def double(k: int, order: int) -> int:
    """The frequency 2k on a group of this order, in 1 .. order / 2.

    >>> double(14, 67), double(21, 67)
    (28, 25)
    """
    return min(2 * k % order, -2 * k % order)


def reported_doubles(reference: Reference, order: int) -> dict[tuple[int, int], list[str]]:
    """Frequencies that are no keys but doubles of one, and that some rules report.

    Doubles 2k of a key frequency k often show in the embedding and in single neurons, so that rules which look there
    report them, too. They say nothing against the key frequencies.

    Returns:
        By (2k, k), the names of the rules that report 2k.
    """
    keys = set(reference.frequencies.values)
    found: dict[tuple[int, int], list[str]] = {}
    for rule, values in reference.by_rule.items():
        for k in sorted(keys):
            if double(k, order) in set(values) - keys:
                found.setdefault((double(k, order), k), []).append(rule)
    return found


def disagreeing_rules(reference: Reference, order: int) -> dict[str, tuple[int, ...]]:
    """The rules whose frequencies differ from the key frequencies by more than doubles, with these frequencies."""
    keys = set(reference.frequencies.values)
    doubles = {double(k, order) for k in keys}
    return {rule: values for rule, values in reference.by_rule.items() if (set(values) ^ keys) - doubles}
