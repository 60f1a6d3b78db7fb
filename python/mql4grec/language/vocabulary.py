"""Which token id stands for what, and the tokenizer that spells it for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mql4grec.config import LanguageSettings, Modality
from mql4grec.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COMPACT = "compact"
SPECIALS = ("<pad>", "</s>", "<unk>")  # the ids 0, 1, 2, as in every T5 vocabulary
LETTERS: dict[Modality, str] = {"text": "abcdefgh", "image": "ABCDEFGH"}  # one per level
PROMPTED = (
    "item2image",
    "image2item",
    "seqitem2image",
    "seqimage2item",
    "fusionseqrec",
    "fgfusionseqrec",
    "fgfusionseqrec.text",
    "fgfusionseqrec.image",
)


@dataclass(frozen=True)
class Vocabulary:
    """Which token id stands for what.

    Attributes:
        n_tokens: Size of T5's embedding table.
        pad: Also T5's decoder start.
        eos: End of an input and of a target.
        unk: What the tokenizer makes of anything else; never in a batch.
        prompts: Token ids of each task's soft prompt, by task ("seqrec" and "seqimage" have none);
            "fgfusionseqrec" has "fgfusionseqrec.text" and "fgfusionseqrec.image" as well.
        first_code: First token id of each level, by modality (L); code c of level l is token
            `first_code[modality][l] + c`.
        n_codes: K of each level, by modality (L).
        tokenizer: "compact", or the folder of the T5 tokenizer that was extended.
    """

    n_tokens: int
    pad: int
    eos: int
    unk: int
    prompts: dict[str, tuple[int, ...]]
    first_code: dict[Modality, tuple[int, ...]]
    n_codes: dict[Modality, tuple[int, ...]]
    tokenizer: str = COMPACT


def build_vocabulary(
    settings: LanguageSettings, *, n_codes: Mapping[Modality, tuple[int, ...]]
) -> Vocabulary:
    """Number the special tokens, soft prompts and codes.

    The compact vocabulary is `<pad> </s> <unk>`, the prompts, all text codes, all image codes. A
    given T5 tokenizer keeps its ids, and prompts and codes follow.

    Args:
        settings: Room `language`.
        n_codes: K of each level, by modality; a modality that no shop has may be left out.

    Raises:
        ValueError: If there is no modality, or one has no level or more than eight.
        ConfigError: If `settings.tokenizer` is no tokenizer that can be extended.
    """
    if not n_codes:
        raise ValueError("`n_codes`: expected at least one modality, got none; give text or image")
    for modality, levels in n_codes.items():
        if not 1 <= len(levels) <= len(LETTERS[modality]):
            raise ValueError(
                f"`n_codes[{modality!r}]`: expected 1 to 8 levels, got {len(levels)}; "
                "train the translator with fewer"
            )
    ordered = {modality: tuple(n_codes[modality]) for modality in LETTERS if modality in n_codes}
    added = _added_tokens(n_prompt_tokens=settings.n_prompt_tokens, n_codes=ordered)
    if settings.tokenizer == COMPACT:
        first, n_tokens, specials = len(SPECIALS), len(SPECIALS) + len(added), (0, 1, 2)
    else:
        tokenizer = _extended(settings.tokenizer, added)
        first, n_tokens = _first_added(tokenizer, added, settings.tokenizer)
        specials = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)

    prompts = {}
    for task in PROMPTED:
        prompts[task] = tuple(range(first, first + settings.n_prompt_tokens))
        first += settings.n_prompt_tokens
    first_code: dict[Modality, tuple[int, ...]] = {}
    for modality, levels in ordered.items():
        first_code[modality] = tuple(first + sum(levels[:level]) for level in range(len(levels)))
        first += sum(levels)
    return Vocabulary(
        n_tokens=n_tokens,
        pad=specials[0],
        eos=specials[1],
        unk=specials[2],
        prompts=prompts,
        first_code=first_code,
        n_codes=ordered,
        tokenizer=settings.tokenizer,
    )


def save_tokenizer(vocabulary: Vocabulary, folder: Path) -> None:
    """Write the vocabulary as a plain Hugging Face tokenizer.

    `AutoTokenizer.from_pretrained(folder)` opens it. Codes may be joined with or without spaces,
    and `</s>` is added at the end, as T5's own tokenizer does. Training never calls it.
    """
    n_prompt_tokens = len(vocabulary.prompts[PROMPTED[0]])
    added = _added_tokens(n_prompt_tokens=n_prompt_tokens, n_codes=vocabulary.n_codes)
    if vocabulary.tokenizer == COMPACT:
        tokenizer = _compact(added)
    else:
        tokenizer = _extended(vocabulary.tokenizer, added)
    tokenizer.save_pretrained(str(folder))


def _added_tokens(
    *, n_prompt_tokens: int, n_codes: Mapping[Modality, tuple[int, ...]]
) -> list[str]:
    """Spell all prompts and codes, in the order of their ids."""
    tokens = [f"<{task}_{i}>" for task in PROMPTED for i in range(1, n_prompt_tokens + 1)]
    for modality, levels in n_codes.items():
        for letter, size in zip(LETTERS[modality], levels, strict=False):
            tokens += [f"<{letter}_{code}>" for code in range(size)]
    return tokens


def _compact(added: list[str]) -> PreTrainedTokenizerBase:
    """Make a tokenizer whose only words are the given tokens."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pad, eos, unk = SPECIALS
    vocabulary = {token: number for number, token in enumerate([*SPECIALS, *added])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unk))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Split(Regex(r"<[^<>]+>"), behavior="isolated"),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["$A", eos], special_tokens=[(eos, vocabulary[eos])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, eos_token=eos, unk_token=unk
    )


def _extended(source: str, added: list[str]) -> PreTrainedTokenizerBase:
    """Open a T5 tokenizer and add the given tokens to it."""
    from tokenizers import AddedToken
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as err:
        raise ConfigError(
            f"`language.tokenizer`: expected 'compact' or the folder of a T5 tokenizer, "
            f"got {source!r}; {err}"
        ) from err
    for name in ("pad_token", "eos_token", "unk_token"):
        if getattr(tokenizer, name) is None:
            raise ConfigError(
                f"`language.tokenizer`: expected a tokenizer with a `{name}`, got none in "
                f"{source!r}; use a T5 tokenizer"
            )
    # Spaces beside a code belong to it: otherwise some versions make a token of them.
    tokenizer.add_tokens(
        [AddedToken(token, lstrip=True, rstrip=True, normalized=False) for token in added]
    )
    return tokenizer


def _first_added(
    tokenizer: PreTrainedTokenizerBase, added: list[str], source: str
) -> tuple[int, int]:
    """Give the id of the first added token and the vocabulary's size."""
    vocabulary = tokenizer.get_vocab()
    numbers = [vocabulary[token] for token in added]
    first = numbers[0]
    if numbers != list(range(first, first + len(added))):
        wrong = next(i for i, number in enumerate(numbers) if number != first + i)
        raise ConfigError(
            f"`language.tokenizer`: expected one without code tokens, got {added[wrong]!r} as "
            f"token {numbers[wrong]} in {source!r}; give the T5 tokenizer that it was made from"
        )
    return first, max(first + len(added), len(tokenizer))
