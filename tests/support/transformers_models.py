"""Real models of a few thousand parameters, and a real tokenizer, created in the tests.

Their weights are random but seeded, so their output is nonsense and always the same.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    pipeline,
)
from transformers.generation import GenerateDecoderOnlyOutput

# The models are small and every core runs a test process, so more threads would only wait.
torch.set_num_threads(1)

IS_V5 = int(transformers.__version__.split(".")[0]) >= 5
# Names of the cache in arguments and results of the installed version. Only the first is not
# deprecated.
CACHE_NAMES = [
    name for name in ("cache", "past_key_values") if hasattr(GenerateDecoderOnlyOutput, name)
]
CACHE_NAME = CACHE_NAMES[0]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "[MASK]", "[CLS]", "[SEP]"]
# Special tokens, and one token for each byte.
VOCABULARY = 263
PAD, BOS, EOS = 0, 1, 2


@cache
def tokenizer() -> Any:
    """Return a tokenizer with one token for each byte, which pads on the left."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(_SPECIAL + letters)}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        mask_token="[MASK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        padding_side="left",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def not_letters() -> list[int]:
    """Return the tokens that are not letters. Without them, a model generates readable text."""
    return [
        token
        for name, token in tokenizer().get_vocab().items()
        if not (len(name) == 1 and name.isalpha() and name.isascii())
    ]


def llama(**config: Any) -> Any:
    """Return a Llama with 35,424 parameters. `config` overrides its configuration."""
    torch.manual_seed(0)
    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
    }
    return LlamaForCausalLM(LlamaConfig(**(settings | config))).eval()


def t5() -> Any:
    """Return an encoder-decoder model, whose output begins with a start token."""
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=PAD,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    return T5ForConditionalGeneration(config).eval()


def bert(kind: Any = BertModel, **config: Any) -> Any:
    """Return a model that does not generate."""
    torch.manual_seed(0)
    return kind(
        BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=512,
            pad_token_id=PAD,
            **config,
        )
    ).eval()


def speech_model() -> Any:
    """Return a model for speech recognition."""
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        vocab_size=12,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8, 8),
        conv_stride=(5, 64),
        conv_kernel=(10, 64),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        mask_time_prob=0.0,
    )
    return Wav2Vec2ForCTC(config).eval()


SOUND = np.sin(np.arange(16_000) / 20).astype(np.float32)


def _speech(tmp_path: Any) -> Any:
    vocabulary = tmp_path / "vocab.json"
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ABCDEFG"]
    vocabulary.write_text(
        "{" + ", ".join(f'"{each}": {index}' for index, each in enumerate(letters)) + "}"
    )
    return pipeline(
        "automatic-speech-recognition",
        model=speech_model(),
        tokenizer=Wav2Vec2CTCTokenizer(str(vocabulary)),
        feature_extractor=Wav2Vec2FeatureExtractor(),
        device="cpu",
    )


LABELS = {"id2label": {0: "ENTAILMENT", 1: "NEUTRAL"}, "label2id": {"ENTAILMENT": 0, "NEUTRAL": 1}}
_KINDS = {
    "feature-extraction": bert,
    "fill-mask": lambda: bert(BertForMaskedLM),
    "text-classification": lambda: bert(BertForSequenceClassification),
    "zero-shot-classification": lambda: bert(BertForSequenceClassification, **LABELS),
    "token-classification": lambda: bert(BertForTokenClassification),
    "question-answering": lambda: bert(BertForQuestionAnswering),
    "text-generation": llama,
    "text2text-generation": t5,
    "summarization": t5,
    "translation": t5,
}


def make_pipeline(task: str, tmp_path: Any, model: Any = None) -> Any:
    """Return a pipeline for a task."""
    if task == "automatic-speech-recognition":
        return _speech(tmp_path)
    model = _KINDS[task]() if model is None else model
    task = "translation_en_to_fr" if task == "translation" else task
    return pipeline(task, model=model, tokenizer=tokenizer(), device="cpu")


GREEDY = {"do_sample": False}


def encoded(*texts: str) -> dict[str, torch.Tensor]:
    both = tokenizer()(list(texts), return_tensors="pt", padding=True)
    return {name: both[name] for name in ("input_ids", "attention_mask")}
