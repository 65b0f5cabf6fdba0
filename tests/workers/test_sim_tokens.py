"""The simulated engine's language."""

from workers.engines.sim_tokens import TEXTS, TURN_END, WORDS, encode, encode_chat, fold, next_id


def generate(prompt, count, **kwargs):
    state, ids = fold(0, prompt), []
    for _ in range(count):
        ids.append(next_id(state, kwargs.get("variant", 0), kwargs.get("mean_tokens", 0)))
        state = fold(state, ids[-1:])
    return ids


def test_words_are_all_different():
    assert len(set(WORDS)) == 1024


def test_what_was_generated_is_read_back_as_the_same_ids():
    ids = generate(encode("Once upon a time"), 200)
    assert encode("".join(TEXTS[token] for token in ids)) == ids


def test_any_cut_of_an_answer_is_continued_exactly():
    prompt = encode("Where were we?")
    whole = generate(prompt, 60)
    for cut in (0, 1, 25, 59):
        assert generate([*prompt, *whole[:cut]], 60 - cut) == whole[cut:]


def test_answers_vary():
    assert len(set(generate(encode("Hello"), 300))) > 200


def test_answers_end_by_themselves_about_as_late_as_asked():
    lengths = [generate(encode(f"Question {number}"), 3000, mean_tokens=50).index(TURN_END) for number in range(100)]
    assert 35 < sum(lengths) / len(lengths) < 70


def test_variants_of_an_answer_differ_from_the_first_token():
    assert len({generate(encode("Hello"), 1, variant=variant)[0] for variant in range(8)}) > 6


def test_text_parts_are_read_like_text_on_lines():
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert encode_chat([{"role": "user", "content": parts}]) == encode_chat([{"role": "user", "content": "one\ntwo"}])


def test_a_next_turn_begins_with_all_of_the_last_one():
    first = [{"role": "user", "content": "Hello"}]
    answer = generate(encode_chat(first), 20)
    text = "".join(TEXTS[token] for token in answer)
    second = encode_chat([*first, {"role": "assistant", "content": text}, {"role": "user", "content": "More"}])
    assert second[: len(encode_chat(first)) + 20] == [*encode_chat(first), *answer]
