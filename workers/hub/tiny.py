"""
The tiny Qwen3: a real model of the real architecture, made on the spot in a few seconds, with no download.

Its words mean nothing; everything else about it is true: tokenizer, chat template, weights in safetensors, a
configuration that vLLM serves like any other. The same version of the libraries always makes the same bytes.
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

VOCABULARY_SIZE = 2000
CONTEXT_TOKENS = 4096
SEED = 20
END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
# With the usual 0.02 and tied embeddings a random model repeats its last word for ever; wide, untied weights wander.
INITIALIZER_RANGE = 0.35
# What every complete copy holds. The recipe's number is written last, so that a copy made by an older recipe is remade.
RECIPE = {"tiny": 1, "seed": SEED}
RECIPE_FILE = "sluice_tiny.json"

CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.content is string %}{{- message.content }}"
    "{%- elif message.content %}"
    "{%- for part in message.content %}{%- if part.type == 'text' %}{{- part.text }}{%- endif %}{%- endfor %}"
    "{%- endif %}"
    "{{- '<|im_end|>\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)


def make_tiny(path: Path) -> Path:
    """
    Make the tiny model in the folder *path*, unless it is complete there already; gives *path*.

    The folder appears whole or not at all, also when several processes make it at once.
    """
    if is_complete(path):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        _write_model(draft)
        (draft / RECIPE_FILE).write_text(json.dumps(RECIPE))
        _put_in_place(draft, path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return path


def is_complete(path: Path) -> bool:
    """Tell whether *path* holds the whole model, made by this recipe."""
    try:
        recipe = json.loads((path / RECIPE_FILE).read_text())
    except (OSError, ValueError):
        return False
    return bool(recipe == RECIPE) and (path / "model.safetensors").is_file()


def _put_in_place(draft: Path, path: Path) -> None:
    draft.chmod(0o755)  # mkdtemp and safetensors keep theirs to their owner; an engine may run as someone else
    for file in draft.iterdir():
        file.chmod(0o644)
    if path.exists() and not is_complete(path):
        shutil.rmtree(path)
    try:
        draft.rename(path)
    except OSError:
        if not is_complete(path):  # else another process was faster, with the same result
            raise


def _write_model(folder: Path) -> None:
    """Train the tokenizer, draw the weights, save both; libraries are imported here because they take seconds."""
    import torch  # noqa: PLC0415
    from transformers import Qwen3ForCausalLM  # noqa: PLC0415
    from transformers.utils import logging  # noqa: PLC0415

    logging.disable_progress_bar()
    tokenizer = _tokenizer()
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = Qwen3ForCausalLM(_configuration(tokenizer))
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    model.generation_config.do_sample = False
    model.to(torch.bfloat16).save_pretrained(folder)


def _configuration(tokenizer: Any) -> Any:
    from transformers import Qwen3Config  # noqa: PLC0415

    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=False,
        initializer_range=INITIALIZER_RANGE,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _tokenizer() -> Any:
    """Train a byte-level BPE on the text in this package; any text at all can be encoded with it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: PLC0415
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[END_OF_TEXT, TURN_START, TURN_END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(_text(), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=TURN_END, pad_token=END_OF_TEXT)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _text() -> Iterator[str]:
    yield from files(__package__).joinpath("tiny_text.txt").read_text(encoding="utf-8").split("\n\n")


def main() -> None:
    """Make the model in the folder named on the command line."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m workers.hub.tiny FOLDER")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    print(json.dumps({"path": str(make_tiny(Path(sys.argv[1])))}))  # noqa: T201


if __name__ == "__main__":
    main()
