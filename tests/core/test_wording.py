"""Which texts say the same, say it twice, and how much a text shall say."""

from __future__ import annotations

from vatt_core.wording import LEFT_OUT, agreement, best_captions, clauses, repeats_itself, usual_length


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


def test_agreement_is_with_the_clause_that_is_meant() -> None:
    drawn = ["a red bird sings while a blue ball bounces", "a blue ball bounces while a red bird sings"]
    assert agreement(drawn[0], drawn) == 1
    swapped = agreement("a blue bird sings while a red ball bounces", drawn)
    one = agreement("a red bird sings", drawn)
    assert swapped < 0.8 and one == 0.5
    assert agreement("rain falls", drawn) == 0 and agreement("", drawn) == 0 and agreement("rain", []) == 0


def test_what_the_draws_differ_about_is_better_left_out_than_said_wrong() -> None:
    drawn = [f"a {colour} bird sings" for colour in ("red", "blue", "green", "white")]
    assert agreement("a bird sings", drawn) > agreement("a red bird sings", drawn)
    sure = ["a red bird sings"] * 5 + ["a blue bird sings"]
    assert agreement("a red bird sings", sure) > agreement("a bird sings", sure)


def test_the_surest_captions_leave_out_what_a_good_part_of_the_draws_says_otherwise() -> None:
    drawn = ["a red bird sings"] * 6 + ["a blue bird sings"] * 4
    said, unsaid = "a red bird sings", "a bird sings"
    assert agreement(said, drawn) > agreement(unsaid, drawn)
    assert agreement(said, drawn, left_out=LEFT_OUT) < agreement(unsaid, drawn, left_out=LEFT_OUT)
    first, *others = [text for text, _ in best_captions([*drawn, unsaid])]
    assert first == said and others == [unsaid, "a blue bird sings"]


def test_the_best_caption_says_much_and_the_next_are_the_surest() -> None:
    drawn = [
        *["a small red bird sings in a tree"] * 4, *["a bird sings"] * 3, "a large blue bird sings in a tree",
        "a small red bird sings in a tree while rain falls on a roof", "a bird sings, a bird sings",
    ]  # fmt: skip
    found = best_captions(drawn)
    assert [text for text, _ in found] == [drawn[0], drawn[4], drawn[7], drawn[8]]
    scores = [score for _, score in found]
    assert scores[0] == max(scores) and all(0 < score < 2 for score in scores)
    assert scores[3] == agreement(drawn[8], drawn)
    assert best_captions([]) == [] and best_captions(["a fire, a fire"])[0][0] == "a fire, a fire"
