"""A clip on disk → exact frames; a wave → a finished file. Knows no model and never imports torch.

Others use: `time_map` (TimeMap, exact_seconds), `probe` (probe, ClipInfo, clip_range), `frames` (read_frames), `waves`
(write_wave, read_wave, resample, fit_length), `loudness` (normalise, edge_fades), `mux` (mux_sound, muxed_suffix),
`preview` (write_preview), `page` (write_page), `watching` (watch), `spool` (Spool), `timecode` (time_reference), `atomic`
(replacing, write_bytes), `opening` (MediaLimits), `guarded` (Guard, for clips of strangers).
The other modules are what these are made of. Nothing is imported here, so that one does not pay for all.
"""
