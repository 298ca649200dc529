"""VATT in DaVinci Resolve: what the scripts of Workspace ▸ Scripts ▸ VATT do.

Everything here but `panel` and `window` runs in Resolve's own Python, with the standard library alone (3.8 or newer).
`panel` runs in VATT's Python as `vatt resolve panel`: it talks to the daemon and shows the window.
"""
