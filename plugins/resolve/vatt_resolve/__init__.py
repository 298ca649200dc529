"""VATT in DaVinci Resolve: scripts for Workspace ▸ Scripts. The standard library alone, Python 3.8 or newer."""
