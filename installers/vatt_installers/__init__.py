"""Per-user services on Linux, macOS and Windows, and the plugins put where editors look for them.

Others use: `service` (platform_service, programs), `systemd`, `launchd`, `windows` (what each system is given), `resolve`
and `blender` (the plugins). What is written is rendered by pure functions; what is run goes through `commands.run`.
"""
