"""What a tokenizer.json holds, in little memory: the words and merges of a BPE as one text each."""

from typing import Any

LINE, PAIR = "\n", "\t"  # between words or merges, and between the two of a merge that is a pair


def compact(facts: dict[str, Any]) -> dict[str, Any]:
    """The same facts, of a BPE with the words in order of their ids, and its merges, as one text each.

    As a table and a list of pairs, 150,000 words take 40 MB more. What cannot be said so stays as it is: ids
    with gaps, words with these separators.
    """
    model = facts.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict) or "merges" not in model:
        return facts
    words, merges = model["vocab"], model["merges"]
    names = list(words)
    if [*words.values()] != [*range(len(words))]:
        names.sort(key=words.__getitem__)
    lines = [merge if isinstance(merge, str) else PAIR.join(merge) for merge in merges]
    vocab, rules = LINE.join(names), LINE.join(lines)
    whole = words and words[names[0]] == 0 and words[names[-1]] == len(words) - 1
    pairs = sum(not isinstance(merge, str) for merge in merges)
    if not whole or vocab.count(LINE) != len(words) - 1:
        return facts
    if rules.count(LINE) != max(0, len(merges) - 1) or rules.count(PAIR) != pairs:
        return facts
    return facts | {"model": model | {"vocab": vocab, "merges": rules}}


def spelled_out(facts: dict[str, Any]) -> dict[str, Any]:
    """What `compact` was given."""
    model = facts.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), str):
        return facts
    lines = model["merges"].split(LINE) if model["merges"] else []
    merges = [tuple(line.split(PAIR)) if PAIR in line else line for line in lines]
    return facts | {"model": model | {"vocab": words_of(model), "merges": merges}}


def words_of(model: dict[str, Any]) -> dict[str, int]:
    """The words and their ids of a model that has a table of them, compact or not; empty if it has none."""
    words = model.get("vocab")
    if isinstance(words, str):
        return {name: id for id, name in enumerate(words.split(LINE))}
    return words if isinstance(words, dict) else {}
