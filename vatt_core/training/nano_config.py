"""nano's sizes."""

from __future__ import annotations

from fractions import Fraction

from vatt_core.model.configuration import (
    AudioTransformerConfig,
    CodecConfig,
    ConverterConfig,
    DecodingDefaults,
    LoraSettings,
    ModelConfig,
    View,
    VisionConfig,
)
from vatt_core.timing import Timing

VOCABULARY = 512
LATENT = 64


def nano_config() -> ModelConfig:
    """What is not as in the official architecture is in the fields that configuration.py documents."""
    timing = Timing(frame_rate=Fraction(20), video_token_rate=Fraction(5), codebook_size=512)
    hidden = 192
    return ModelConfig(
        name="nano",
        timing=timing,
        vision=VisionConfig(
            name="nano-vit-p16-64",
            open_clip_model={
                "embed_dim": 128,
                "vision_cfg": {"image_size": 64, "layers": 3, "width": 128, "head_width": 32, "patch_size": 16},
                "text_cfg": {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1},
            },
            image_size=64,
            feature_dim=128,
            views=(View(), View(mirrored=True), View(down=2, right=2), View(mirrored=True, down=-2, right=-2)),
        ),
        converter=ConverterConfig(
            family="llama",
            llm={
                "vocab_size": VOCABULARY,
                "hidden_size": hidden,
                "intermediate_size": 512,
                "num_hidden_layers": 4,
                "num_attention_heads": 6,
                "num_key_value_heads": 6,
                "max_position_embeddings": 256,
                "pad_token_id": 0,
                "bos_token_id": 1,
                "eos_token_id": 2,
                "tie_word_embeddings": True,
            },
            lora=LoraSettings(
                rank=8,
                alpha=16,
                dropout=0.0,
                targets=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
            ),
            pooling="stack",
        ),
        audio=AudioTransformerConfig(
            dim=192,
            encoder_layers=1,
            decoder_layers=3,
            encoder_heads=4,
            decoder_heads=4,
            dim_head=48,
            latent_dim=LATENT,
            condition_dim=hidden,
            visual_positions=128,
            token_order="aligned",
            video_to_audio=True,
            video_place_rank=48,
            dropout=0.0,
        ),
        codec=CodecConfig(
            encodec={
                "target_bandwidths": [timing.codebooks * 9 * 50 / 1000],
                "sampling_rate": timing.sample_rate,
                "audio_channels": 1,
                "normalize": False,
                "num_filters": 16,
                "hidden_size": LATENT,
                "codebook_dim": LATENT,
                "codebook_size": timing.codebook_size,
                "upsampling_ratios": [5, 4, 4, 4],
                "use_causal_conv": False,
                "use_conv_shortcut": False,
                "pad_mode": "constant",
                "num_lstm_layers": 1,
            }
        ),
        decoding=DecodingDefaults(
            steps=20,
            guidance_scale=2.0,
            temperature=0.75,
            mask_temperature=4.0,
            top_k=64,
            fill_order="coarse_first",
            steps_per_codebook=(14, 3, 2, 1),
            caption_temperature=1.0,
            caption_repetition_penalty=1.0,
            caption_draws=16,
        ),
    )
