"""Small tokenizers of the usual families, trained in a moment on a few sentences."""

import warnings
from functools import cache

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

CORPUS = ["The city of Krasnodar is in Russia.", "The city of Lodz is not in Poland.",
          "Fifty-one is larger than two.", "The Spanish word 'con' does not mean 'to speak'.",
          "Sao Paulo, Zürich and Łódź are far from Stephen King's It.",
          "What are the lat/lon coordinates of New York City", "When was the release date of The Beatles's Help!",
          "It is the case both that the city of Al Ain City is in China and that 12 is in it."] * 3
FAMILIES = ("word-level", "wordpiece", "byte-level", "byte-fallback", "unigram", "byt5")


class WithoutOffsets:
    """A fast tokenizer that looks like a slow one: token ids and nothing else."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        self.is_fast = False

    def __call__(self, text: str, **options):
        return {"input_ids": self._tokenizer(text, **options)["input_ids"]}

    def __getattr__(self, name: str):
        return getattr(self._tokenizer, name)


@cache
def tiny(family: str):
    """word-level; wordpiece (as BERT); byte-level (as GPT-2); byte-fallback (as Llama-2); unigram (as T5); byt5, which
    is written in Python and has no offsets."""
    if family == "byt5":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ByT5Tokenizer()
    tokenizer, trainer, special = getattr(_Make, family.replace("-", "_"))()
    tokenizer.train_from_iterator(CORPUS, trainer)
    if bos := special.get("cls_token") or special.get("bos_token"):
        ends = f" {special['sep_token']}" if "sep_token" in special else ""
        ids = [(t, tokenizer.token_to_id(t)) for t in (bos, special.get("sep_token")) if t]
        if family != "byte-level":  # GPT-2 has a beginning-of-sequence token and does not use it by itself
            tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A{ends}", special_tokens=ids)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


class _Make:
    @staticmethod
    def word_level():
        tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        return tokenizer, trainers.WordLevelTrainer(special_tokens=["[UNK]"]), {"unk_token": "[UNK]"}

    @staticmethod
    def wordpiece():
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        special = dict(unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]")
        return tokenizer, trainers.WordPieceTrainer(vocab_size=150, special_tokens=list(special.values())), special

    @staticmethod
    def byte_level():
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<|endoftext|>"],
                                      initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
        return tokenizer, trainer, dict(bos_token="<|endoftext|>", eos_token="<|endoftext|>")

    @staticmethod
    def byte_fallback():
        tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        bytes_ = [f"<0x{b:02X}>" for b in range(256)]
        trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=["<unk>", "<s>", "</s>", *bytes_],
                                      max_token_length=8)
        return tokenizer, trainer, dict(unk_token="<unk>", bos_token="<s>", eos_token="</s>")

    @staticmethod
    def unigram():
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
        special = dict(unk_token="<unk>", pad_token="<pad>")
        trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=["<pad>", "<unk>"], unk_token="<unk>",
                                          show_progress=False)
        return tokenizer, trainer, special
