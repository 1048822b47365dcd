"""Tiny models of each family that has a `generate` of its own, with arguments and expected tokens.

They are created from configurations with random, seeded weights. `build` functions import their
classes, because older versions of transformers lack some of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import transformers

from tests.support.transformers_models import IS_V5

VOCABULARY = 120


class OwnGenerate(NamedTuple):
    """One call of a model's own `generate`.

    Attributes:
        model: The model.
        arguments: Arguments of the call.
        output_tokens: Returns the new tokens in the result; `None` if the result has none, such
            as a recording, or does not show them.
        input_tokens: Tokens of the prompt that the caller or a part of the model knows.
        method: Name of the method.
    """

    model: Any
    arguments: dict[str, Any]
    output_tokens: Callable[[Any], int] | None
    input_tokens: int | None = None
    method: str = "generate"


def ids(*shape: int) -> torch.Tensor:
    return torch.randint(10, 90, shape, generator=torch.Generator().manual_seed(0))


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _columns(result: Any) -> int:
    rows = result if hasattr(result, "shape") else result.sequences
    return rows.numel()


def whisper(**config: Any) -> Any:
    """Return a Whisper model whose windows have 60 frames."""
    settings = {
        "vocab_size": 200,
        "d_model": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 16,
        "decoder_ffn_dim": 16,
        "num_mel_bins": 8,
        "max_source_positions": 30,
        "max_target_positions": 60,
        "decoder_start_token_id": 85,
        "bos_token_id": 98,
        "eos_token_id": 98,
        "pad_token_id": 98,
        "suppress_tokens": None,
        "begin_suppress_tokens": None,
    }
    torch.manual_seed(0)
    model = transformers.WhisperForConditionalGeneration(
        transformers.WhisperConfig(**settings | config)
    ).eval()
    generation = model.generation_config
    generation.is_multilingual = False
    generation.no_timestamps_token_id = 100
    generation.max_initial_timestamp_index = 5
    generation.max_length = 20
    return model


def whisper_long() -> OwnGenerate:
    arguments = {
        "input_features": noise(1, 8, 300),
        "attention_mask": torch.ones(1, 300, dtype=torch.long),
        "return_timestamps": True,
        "temperature": (0.0, 0.4),
        "logprob_threshold": -1.0,
        "compression_ratio_threshold": 2.4,
    }
    return OwnGenerate(whisper(), arguments, _columns)


def whisper_batch() -> OwnGenerate:
    mask = torch.ones(2, 300, dtype=torch.long)
    mask[1, 150:] = 0
    arguments = {
        "input_features": noise(2, 8, 300),
        "attention_mask": mask,
        "return_timestamps": True,
    }
    return OwnGenerate(whisper(), arguments, lambda result: int((result != 98).sum()))


def _vision(**more: Any) -> Any:
    return {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 8,
        **more,
    }


_TEXT = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


def _blip_config() -> Any:
    text = {
        **_TEXT,
        "vocab_size": VOCABULARY,
        "encoder_hidden_size": 16,
        "bos_token_id": 1,
        "sep_token_id": 2,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "is_decoder": True,
    }
    return transformers.BlipConfig(text_config=text, vision_config=_vision(), projection_dim=16)


def blip() -> OwnGenerate:
    model = transformers.BlipForConditionalGeneration(_blip_config()).eval()
    arguments = {"pixel_values": noise(1, 3, 16, 16), "input_ids": ids(1, 4), "max_new_tokens": 5}
    # The method removes the last prompt token, and the text decoder starts with the rest.
    return OwnGenerate(model, arguments, lambda result: result.shape[1] - 3, 4)


def blip_answers() -> OwnGenerate:
    model = transformers.BlipForQuestionAnswering(_blip_config()).eval()
    arguments = {"pixel_values": noise(1, 3, 16, 16), "input_ids": ids(1, 4), "max_new_tokens": 5}
    return OwnGenerate(model, arguments, lambda result: result.shape[1] - 1, 4)


def _after_prompt(prompt: torch.Tensor) -> Callable[[Any], int]:
    """Return the count of a result that repeats the prompt; before 4.47, it is a start token."""
    length = prompt.shape[1]

    def count(result: torch.Tensor) -> int:
        return result.shape[1] - (length if result[:, :length].equal(prompt) else 1)

    return count


def _opt() -> Any:
    return transformers.OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=1,
        ffn_dim=16,
        num_attention_heads=2,
        max_position_embeddings=64,
        word_embed_proj_dim=16,
        pad_token_id=1,
        bos_token_id=2,
        eos_token_id=2,
        architectures=["OPTForCausalLM"],  # InstructBLIP reads it in version 4.46.
    )


_QFORMER = {**_TEXT, "vocab_size": VOCABULARY, "encoder_hidden_size": 16}


def blip2() -> OwnGenerate:
    config = transformers.Blip2Config(
        vision_config=_vision(),
        qformer_config=_QFORMER,
        text_config=_opt().to_dict(),
        num_query_tokens=3,
        image_token_index=VOCABULARY - 1,
    )
    model = transformers.Blip2ForConditionalGeneration(config).eval()
    prompt = torch.cat([torch.full((1, 3), VOCABULARY - 1), ids(1, 4)], dim=1)
    arguments = {
        "pixel_values": noise(1, 3, 16, 16),
        "input_ids": prompt,
        "attention_mask": torch.ones_like(prompt),
        "max_new_tokens": 5,
    }
    return OwnGenerate(model, arguments, _after_prompt(prompt), 7)


def instructblip() -> OwnGenerate:
    config = transformers.InstructBlipConfig(
        vision_config=_vision(),
        qformer_config=_QFORMER,
        text_config=_opt().to_dict(),
        num_query_tokens=3,
        image_token_index=VOCABULARY - 1,
    )
    model = transformers.InstructBlipForConditionalGeneration(config).eval()
    prompt = torch.cat([torch.full((1, 3), VOCABULARY - 1), ids(1, 4)], dim=1)
    arguments = {
        "pixel_values": noise(1, 3, 16, 16),
        "qformer_input_ids": ids(1, 4),
        "qformer_attention_mask": torch.ones(1, 4, dtype=torch.long),
        "input_ids": prompt,
        "attention_mask": torch.ones_like(prompt),
        "max_new_tokens": 5,
    }
    return OwnGenerate(model, arguments, _after_prompt(prompt), 7)


def kosmos2() -> OwnGenerate:
    config = transformers.Kosmos2Config(
        text_config={
            "vocab_size": VOCABULARY,
            "embed_dim": 16,
            "layers": 1,
            "ffn_dim": 16,
            "attention_heads": 2,
            "max_position_embeddings": 64,
        },
        vision_config=_vision(),
        latent_query_num=3,
    )
    model = transformers.Kosmos2ForConditionalGeneration(config).eval()
    arguments = {
        "pixel_values": noise(1, 3, 16, 16),
        "input_ids": ids(1, 6),
        "attention_mask": torch.ones(1, 6, dtype=torch.long),
        "image_embeds_position_mask": torch.tensor([[0, 1, 1, 1, 0, 0]]),
        "max_new_tokens": 5,
    }
    return OwnGenerate(model, arguments, lambda result: result.shape[1] - 6, 6)


def _speecht5() -> Any:
    return transformers.SpeechT5Config(
        vocab_size=VOCABULARY,
        hidden_size=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        conv_dim=(8, 8),
        conv_stride=(5, 64),
        conv_kernel=(10, 64),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        num_mel_bins=8,
        speaker_embedding_dim=8,
        speech_decoder_prenet_units=8,
        speech_decoder_postnet_units=8,
        speech_decoder_postnet_layers=1,
        max_speech_positions=64,
        max_text_positions=32,
    )


def speecht5() -> OwnGenerate:
    model = transformers.SpeechT5ForTextToSpeech(_speecht5()).eval()
    arguments = {"input_ids": ids(1, 5), "speaker_embeddings": noise(1, 8), "maxlenratio": 2.0}
    return OwnGenerate(model, arguments, None, 5)


def speecht5_generate_speech() -> OwnGenerate:
    return speecht5()._replace(method="generate_speech")


def speecht5_conversion() -> OwnGenerate:
    model = transformers.SpeechT5ForSpeechToSpeech(_speecht5()).eval()
    arguments = {
        "input_values": noise(1, 4000),
        "speaker_embeddings": noise(1, 8),
        "maxlenratio": 2.0,
    }
    return OwnGenerate(model, arguments, None, None, "generate_speech")


def _encodec(**config: Any) -> Any:
    return transformers.EncodecConfig(
        hidden_size=8,
        num_filters=2,
        upsampling_ratios=(2, 2),
        codebook_size=32,
        codebook_dim=8,
        num_lstm_layers=1,
        sampling_rate=8000,
        **config,
    )


def _t5() -> Any:
    return transformers.T5Config(
        vocab_size=VOCABULARY,
        d_model=16,
        d_kv=8,
        d_ff=16,
        num_layers=1,
        num_heads=2,
        decoder_start_token_id=0,
    )


def _music_decoder(kind: Any, **more: Any) -> Any:
    return kind(
        vocab_size=32,
        hidden_size=16,
        num_hidden_layers=1,
        ffn_dim=16,
        num_attention_heads=2,
        max_position_embeddings=64,
        num_codebooks=2,
        pad_token_id=32,
        bos_token_id=32,
        **more,
    )


def _with_guidance(model: Any) -> Any:
    model.generation_config.decoder_start_token_id = 32
    model.generation_config.pad_token_id = 32
    model.generation_config.bos_token_id = 32
    model.generation_config.guidance_scale = 1.0
    return model


def musicgen() -> OwnGenerate:
    config = transformers.MusicgenConfig(
        text_encoder=_t5().to_dict(),
        audio_encoder=_encodec(target_bandwidths=(40.0,)).to_dict(),
        decoder=_music_decoder(transformers.MusicgenDecoderConfig).to_dict(),
    )
    model = _with_guidance(transformers.MusicgenForConditionalGeneration(config).eval())
    return OwnGenerate(model, {"input_ids": ids(1, 5), "max_new_tokens": 6}, None, 5)


def bark() -> OwnGenerate:
    part = {
        "num_layers": 1,
        "num_heads": 2,
        "hidden_size": 16,
        "block_size": 400,
    }
    config = transformers.BarkConfig(
        semantic_config={**part, "input_vocab_size": 400, "output_vocab_size": 60},
        coarse_acoustics_config={**part, "input_vocab_size": 300, "output_vocab_size": 300},
        fine_acoustics_config={
            **part,
            "input_vocab_size": 40,
            "output_vocab_size": 40,
            "n_codes_total": 4,
            "n_codes_given": 1,
        },
        codec_config=_encodec(target_bandwidths=(80.0,)).to_dict(),
    )
    model = transformers.BarkModel(config).eval()
    settings = {
        "semantic_config": {
            "max_new_tokens": 6,
            "eos_token_id": 59,
            "semantic_vocab_size": 50,
            "text_encoding_offset": 60,
            "text_pad_token": 300,
            "semantic_pad_token": 55,
            "semantic_infer_token": 301,
            "max_input_semantic_length": 8,
            "semantic_rate_hz": 50,
        },
        "coarse_acoustics_config": {
            "n_coarse_codebooks": 2,
            "coarse_semantic_pad_token": 200,
            "coarse_infer_token": 201,
            "coarse_rate_hz": 50,
            "max_coarse_input_length": 8,
            "max_coarse_history": 8,
            "sliding_window_len": 4,
        },
        "fine_acoustics_config": {
            "max_fine_history_length": 8,
            "max_fine_input_length": 16,
            "n_fine_codebooks": 4,
        },
        "codebook_size": 32,
    }
    for name, value in settings.items():
        setattr(model.generation_config, name, value)
    return OwnGenerate(model, {"input_ids": ids(1, 8)}, None, 8)


def _seamless() -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "t2u_vocab_size": VOCABULARY,
        "hidden_size": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_ffn_dim": 16,
        "decoder_ffn_dim": 16,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "speech_encoder_layers": 1,
        "speech_encoder_attention_heads": 2,
        "speech_encoder_intermediate_size": 16,
        "feature_projection_input_dim": 8,
        "num_conv_pos_embeddings": 4,
        "num_conv_pos_embedding_groups": 2,
        "conv_depthwise_kernel_size": 3,
        "adaptor_kernel_size": 2,
        "adaptor_stride": 2,
        "t2u_encoder_layers": 1,
        "t2u_decoder_layers": 1,
        "t2u_encoder_ffn_dim": 16,
        "t2u_decoder_ffn_dim": 16,
        "t2u_encoder_attention_heads": 2,
        "t2u_decoder_attention_heads": 2,
        "unit_hifi_gan_vocab_size": VOCABULARY,
        "unit_embed_dim": 8,
        "lang_embed_dim": 4,
        "spkr_embed_dim": 4,
        "vocoder_num_langs": 4,
        "vocoder_num_spkrs": 4,
        "upsample_initial_channel": 16,
        "upsample_rates": [2, 2],
        "upsample_kernel_sizes": [4, 4],
        "resblock_kernel_sizes": [3],
        "resblock_dilation_sizes": [[1, 3, 5]],
        "variance_predictor_kernel_size": 3,
        "max_position_embeddings": 64,
    }


def _speak(model: Any) -> Any:
    for name, value in {
        "text_decoder_lang_to_code_id": {"eng": 5},
        "t2u_lang_code_to_id": {"eng": 5},
        "vocoder_lang_code_to_id": {"eng": 1},
        "id_to_text": {str(token): chr(97 + token % 26) for token in range(VOCABULARY)},
        "char_to_id": {chr(97 + index): index + 5 for index in range(26)},
    }.items():
        setattr(model.generation_config, name, value)
    return model.eval()


def seamless_text() -> OwnGenerate:
    config = transformers.SeamlessM4TConfig(**_seamless())
    model = _speak(transformers.SeamlessM4TForTextToText(config))
    arguments = {"input_ids": ids(1, 5), "tgt_lang": "eng", "max_new_tokens": 6}
    return OwnGenerate(model, arguments, lambda result: result.shape[1] - 2, 5)


def seamless_transcription() -> OwnGenerate:
    config = transformers.SeamlessM4TConfig(**_seamless())
    model = _speak(transformers.SeamlessM4TForSpeechToText(config))
    arguments = {"input_features": noise(1, 20, 8), "tgt_lang": "eng", "max_new_tokens": 6}
    return OwnGenerate(model, arguments, lambda result: result.shape[1] - 2)


def seamless_speech() -> OwnGenerate:
    config = transformers.SeamlessM4TConfig(**_seamless())
    model = _speak(transformers.SeamlessM4TForTextToSpeech(config))
    arguments = {"input_ids": ids(1, 5), "tgt_lang": "eng", "text_max_new_tokens": 6}
    arguments["speech_max_new_tokens"] = 6
    return OwnGenerate(model, arguments, None, 5)


def seamless_speech_and_text() -> OwnGenerate:
    case = seamless_speech()
    case.arguments["return_intermediate_token_ids"] = True
    return case._replace(output_tokens=lambda result: result.sequences.shape[1] - 2)


def pop2piano() -> OwnGenerate:
    config = transformers.Pop2PianoConfig(
        vocab_size=VOCABULARY,
        composer_vocab_size=3,
        d_model=16,
        d_kv=8,
        d_ff=16,
        num_layers=1,
        num_heads=2,
        decoder_start_token_id=0,
    )
    model = transformers.Pop2PianoForConditionalGeneration(config).eval()
    model.generation_config.composer_to_feature_token = {f"composer{n}": n for n in (1, 2, 3)}
    arguments = {"input_features": noise(1, 6, 16), "composer": "composer1", "max_new_tokens": 5}
    return OwnGenerate(model, arguments, lambda result: result.shape[1] - 1)


def rag_token() -> OwnGenerate:
    return _rag(transformers.RagTokenForGeneration)


def rag_sequence() -> OwnGenerate:
    return _rag(transformers.RagSequenceForGeneration)


def _rag(kind: Any) -> OwnGenerate:
    question = transformers.DPRConfig(**_TEXT, vocab_size=VOCABULARY, projection_dim=16)
    generator = transformers.BartConfig(
        vocab_size=VOCABULARY,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        max_position_embeddings=64,
        decoder_start_token_id=2,
        forced_eos_token_id=None,
    )
    config = transformers.RagConfig.from_question_encoder_generator_configs(
        question, generator, n_docs=2
    )
    model = kind(config).eval()
    arguments = {
        "context_input_ids": ids(2, 8),
        "context_attention_mask": torch.ones(2, 8, dtype=torch.long),
        "doc_scores": noise(1, 2),
        "max_new_tokens": 5,
    }
    if kind is transformers.RagSequenceForGeneration:
        arguments |= {"n_docs": 2, "num_beams": 2}
    return OwnGenerate(model, arguments, lambda result: result.shape[1] - 1)


def _series() -> dict[str, Any]:
    return {
        "past_values": noise(2, 20),
        "past_time_features": noise(2, 20, 1),
        "past_observed_mask": torch.ones(2, 20),
        "future_time_features": noise(2, 4, 1),
    }


def _forecaster(config: Any, model: Any, **more: Any) -> OwnGenerate:
    settings = config(
        prediction_length=4,
        context_length=13,
        num_time_features=1,
        num_parallel_samples=3,
        d_model=16,
        **more,
    )
    return OwnGenerate(model(settings).eval(), _series(), None)


def time_series_transformer() -> OwnGenerate:
    return _forecaster(
        transformers.TimeSeriesTransformerConfig,
        transformers.TimeSeriesTransformerForPrediction,
    )


def autoformer() -> OwnGenerate:
    return _forecaster(
        transformers.AutoformerConfig, transformers.AutoformerForPrediction, label_length=4
    )


def informer() -> OwnGenerate:
    return _forecaster(transformers.InformerConfig, transformers.InformerForPrediction)


def patchtst() -> OwnGenerate:
    config = transformers.PatchTSTConfig(
        context_length=16,
        patch_length=4,
        patch_stride=4,
        num_hidden_layers=1,
        d_model=16,
        num_attention_heads=2,
        ffn_dim=16,
        prediction_length=4,
        loss="nll",
        num_parallel_samples=3,
    )
    model = transformers.PatchTSTForPrediction(config).eval()
    return OwnGenerate(model, {"past_values": noise(2, 16, 1)}, None)


def patchtsmixer() -> OwnGenerate:
    config = transformers.PatchTSMixerConfig(
        context_length=16,
        patch_length=4,
        patch_stride=4,
        num_layers=1,
        prediction_length=4,
        loss="nll",
        num_parallel_samples=3,
    )
    model = transformers.PatchTSMixerForPrediction(config).eval()
    return OwnGenerate(model, {"past_values": noise(2, 16, 1)}, None)


_PARAKEET = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "conv_kernel_size": 3,
    "subsampling_conv_channels": 4,
    "num_mel_bins": 8,
}


def parakeet_ctc() -> OwnGenerate:
    config = transformers.ParakeetCTCConfig(
        vocab_size=20, pad_token_id=19, encoder_config=_PARAKEET
    )
    model = transformers.ParakeetForCTC(config).eval()
    # The result has one label per frame of sound, which are not tokens yet.
    return OwnGenerate(model, {"input_features": noise(1, 64, 8)}, None)


def clvp() -> OwnGenerate:
    if not IS_V5:
        pytest.skip("the method fails in this version of transformers")
    encoder = {
        "vocab_size": 60,
        "hidden_size": 64,
        "intermediate_size": 16,
        "projection_dim": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    config = transformers.ClvpConfig(
        text_config=encoder,
        speech_config=encoder,
        decoder_config={
            "vocab_size": 60,
            "max_text_tokens": 32,
            "max_position_embeddings": 64,
            "hidden_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "n_inner": 16,
            "feature_size": 8,
            "num_mel_attn_blocks": 1,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        projection_dim=64,
    )
    model = transformers.ClvpModelForConditionalGeneration(config).eval()
    arguments = {
        "input_ids": ids(1, 6) % 50,
        "input_features": noise(1, 8, 10),
        "max_new_tokens": 5,
        "return_dict_in_generate": True,  # Without it, the method fails.
    }
    return OwnGenerate(model, arguments, None, 6)


def _mimi() -> Any:
    return transformers.MimiConfig(
        hidden_size=16,
        num_filters=2,
        upsampling_ratios=[2, 2],
        codebook_size=16,
        codebook_dim=8,
        vector_quantization_hidden_dimension=8,
        num_quantizers=2,
        num_semantic_quantizers=1,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=16,
        head_dim=8,
        sampling_rate=8000,
        frame_rate=1000,
        upsample_groups=2,
    )


def kyutai() -> OwnGenerate:
    config = transformers.KyutaiSpeechToTextConfig(
        codebook_vocab_size=17,
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        sliding_window=32,
        ffn_dim=32,
        num_codebooks=2,
        audio_bos_token_id=16,
        audio_pad_token_id=60,
        bos_token_id=38,
        pad_token_id=3,
        codec_config=_mimi().to_dict(),
    )
    model = transformers.KyutaiSpeechToTextForConditionalGeneration(config).eval()
    arguments = {"input_values": noise(1, 1, 64), "max_new_tokens": 5}
    return OwnGenerate(model, arguments, lambda result: result.shape[1] - 1)


def seamless_v2_text() -> OwnGenerate:
    config = transformers.SeamlessM4Tv2Config(**_seamless(), char_vocab_size=VOCABULARY)
    model = _speak(transformers.SeamlessM4Tv2ForTextToText(config))
    arguments = {"input_ids": ids(1, 5), "tgt_lang": "eng", "max_new_tokens": 6}
    return OwnGenerate(model, arguments, lambda result: result.shape[1] - 2, 5)


def dia() -> OwnGenerate:
    part = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 64,
    }
    config = transformers.DiaConfig(
        encoder_config={**part, "vocab_size": VOCABULARY},
        decoder_config={
            **part,
            "cross_hidden_size": 16,
            "cross_num_attention_heads": 2,
            "cross_num_key_value_heads": 2,
            "cross_head_dim": 8,
            "vocab_size": 40,
            "num_channels": 2,
        },
        delay_pattern=[0, 1],
        pad_token_id=38,
        eos_token_id=37,
        bos_token_id=39,
    )
    model = transformers.DiaForConditionalGeneration(config).eval()
    # The result has two codes of sound per step.
    return OwnGenerate(model, {"input_ids": ids(2, 6), "max_new_tokens": 6}, None, 12)


def csm() -> OwnGenerate:
    part = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "num_codebooks": 2,
        "vocab_size": 40,
        "max_position_embeddings": 64,
    }
    config = transformers.CsmConfig(
        **part,
        text_vocab_size=VOCABULARY,
        pad_token_id=1,
        codebook_pad_token_id=38,
        codebook_eos_token_id=37,
        bos_token_id=2,
        audio_token_id=VOCABULARY - 2,
        audio_eos_token_id=VOCABULARY - 1,
        depth_decoder_config={**part, "backbone_hidden_size": 16},
        codec_config=_mimi().to_dict(),
    )
    model = transformers.CsmForConditionalGeneration(config).eval()
    # The result has two codes of sound per step.
    return OwnGenerate(model, {"input_ids": ids(1, 6), "max_new_tokens": 4}, None, 6)


def janus() -> OwnGenerate:
    config = transformers.JanusConfig(
        text_config=transformers.LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=64,
        ).to_dict(),
        vision_config={
            **_vision(),
            "projection_dim": 16,
            "num_image_tokens": 4,
            "mlp_ratio": 1.0,
        },
        vq_config={
            "embed_dim": 8,
            "num_embeddings": 32,
            "latent_channels": 8,
            "num_patches": 2,
            "base_channels": 32,
            "channel_multiplier": [1, 1],
            "num_res_blocks": 1,
            "projection_dim": 16,
            "num_hidden_layers": 1,
            "image_token_embed_dim": 16,
        },
        image_token_id=VOCABULARY - 1,
    )
    model = transformers.JanusForConditionalGeneration(config).eval()
    arguments = {"input_ids": ids(1, 6), "max_new_tokens": 5, "generation_mode": "text"}
    return OwnGenerate(model, arguments, lambda result: result.shape[1] - 6, 6)


def janus_image() -> OwnGenerate:
    case = janus()
    case.model.generation_config.generation_kwargs = {"boi_token_id": 5}
    arguments = {
        "input_ids": ids(1, 6),
        "attention_mask": torch.ones(1, 6, dtype=torch.long),
        "generation_mode": "image",
        "do_sample": False,
        "pad_token_id": 0,
    }
    # The result has the codes of a picture.
    return OwnGenerate(case.model, arguments, None, 6)


CASES = (
    whisper_long,
    whisper_batch,
    blip,
    blip_answers,
    blip2,
    instructblip,
    kosmos2,
    speecht5,
    speecht5_generate_speech,
    speecht5_conversion,
    musicgen,
    bark,
    seamless_text,
    seamless_transcription,
    seamless_speech,
    seamless_speech_and_text,
    pop2piano,
    rag_token,
    rag_sequence,
    time_series_transformer,
    autoformer,
    informer,
    patchtst,
    patchtsmixer,
    parakeet_ctc,
    clvp,
    kyutai,
    seamless_v2_text,
    dia,
    csm,
    janus,
    janus_image,
)
