"""The tiny model: made whole or not at all, the same each time, and readable by the libraries that will load it."""

import hashlib
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from workers.hub.tiny import RECIPE_FILE, is_complete, make_tiny

pytestmark = pytest.mark.vllm  # it takes torch and transformers, which come with the engine


def make(folder):
    command = [sys.executable, "-m", "workers.hub.tiny", str(folder)]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    make(folder)
    return folder


def test_two_makers_at_once_make_one_model_the_same_as_ever(tiny, tmp_path):
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(make, [tmp_path / "tiny"] * 2))
    assert digests(tmp_path / "tiny") == digests(tiny)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"], "no draft is left behind"


def test_making_it_again_touches_nothing(tiny):
    before = {path: path.stat().st_mtime_ns for path in tiny.iterdir()}
    assert make_tiny(tiny) == tiny
    assert {path: path.stat().st_mtime_ns for path in tiny.iterdir()} == before


def test_half_a_model_is_not_taken_for_a_whole_one(tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "half")
    (tmp_path / "half" / "model.safetensors").unlink()
    assert not is_complete(tmp_path / "half")


def test_a_copy_of_another_recipe_is_remade(tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "old")
    (tmp_path / "old" / RECIPE_FILE).write_text('{"tiny": 0}')
    (tmp_path / "old" / "config.json").write_text("{}")
    make(tmp_path / "old")
    assert digests(tmp_path / "old") == digests(tiny)


def test_others_may_read_it(tiny):
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in tiny.iterdir())


def test_text_parts_and_plain_text_make_the_same_prompt(tiny):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    contents = ["Wie lange noch?", [{"type": "text", "text": "Wie lange"}, {"type": "text", "text": " noch?"}]]
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        for content in contents
    ]
    assert prompts == ["<|im_start|>user\nWie lange noch?<|im_end|>\n<|im_start|>assistant\n"] * 2


@pytest.mark.parametrize("text", ["How long?", "水车 🌊", "tab\tand\nline", "\x00\x7f"])
def test_any_text_comes_back_from_its_tokens(text, tiny):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_greedy_answers_wander_instead_of_repeating_a_word(tiny):
    script = f"""
from transformers import AutoModelForCausalLM, AutoTokenizer
model, tokenizer = (kind.from_pretrained({str(tiny)!r}) for kind in (AutoModelForCausalLM, AutoTokenizer))
ids = tokenizer("How long must I wait?", return_tensors="pt")
answer = model.generate(**ids, max_new_tokens=100, do_sample=False)[0][ids["input_ids"].shape[1]:].tolist()
print(len(set(answer)) / len(answer))
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert float(done.stdout.split()[-1]) > 0.4
