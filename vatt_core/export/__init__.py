"""A hand-off of finished takes to any editor: Broadcast WAV with timecode, OTIO, FCP7 XML, MLT. Imports no torch.

Others use: `export` (write_export, FORMATS), `results` (collect_takes, ClipUse). The other modules are one file format each.
"""
