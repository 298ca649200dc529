"""VATT in DaVinci Resolve: what the scripts of Workspace ▸ Scripts ▸ VATT do.

Everything here but `panel`, `desk`, `window` and `page` runs in Resolve's own Python, with the standard library alone (3.8
or newer). Those four run in VATT's Python as `vatt resolve panel`: they talk to the daemon (panel), keep what is shown
(desk), and show it, in a window or in the browser.
"""
