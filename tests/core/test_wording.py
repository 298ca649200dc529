"""Which texts say the same, say it twice, and how much a text shall say."""

from __future__ import annotations

from vatt_core.wording import clauses, repeats_itself, usual_length


def test_a_text_has_as_many_clauses_as_it_tells_things() -> None:
    assert len(clauses("a dog barks")) == 1
    assert len(clauses("a dog barks while rain falls, then a door slams")) == 3
    assert clauses("") == [] and len(clauses("a dog barks, ")) == 1


def test_a_text_repeats_itself_when_a_clause_adds_nothing() -> None:
    assert repeats_itself("a fire burns in a barrel while the sound of a large fire burning in a barrel")
    assert repeats_itself("rain falls, then rain is falling")
    assert not repeats_itself("a small bird sings while a large dog barks")
    assert not repeats_itself("a bird sings")


def test_a_text_says_more_only_when_most_drawn_ones_do() -> None:
    one, two = "a dog barks", "a dog barks while rain falls"
    assert usual_length([one] * 5 + [two] * 5) == 1
    assert usual_length([one] * 2 + [two] * 8) == 2
    assert usual_length([]) == 0
