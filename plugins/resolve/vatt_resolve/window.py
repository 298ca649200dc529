"""The small window of the panel (Tk): captions to click, prompt, takes, progress, cancel."""

from __future__ import annotations

import queue
import threading
import tkinter
from collections.abc import Callable
from pathlib import Path
from tkinter import filedialog, ttk
from typing import Any

from vatt_client.errors import ClientError
from vatt_client.replies import Caption, Progress

from vatt_resolve.panel import Conversation, PanelSettings, Work, clips_of

TICK = 80
"""Milliseconds between two looks at what the working thread has to tell."""


class Window:
    """Shows one opening until the user closes it. Work happens in a thread; only `_tick` touches the widgets."""

    def __init__(self, opening: dict[str, Any], talk: Conversation, work: Work, settings_file: Path) -> None:
        self._talk = talk
        self._work = work
        self._settings_file = settings_file
        self._clips = clips_of(opening)
        self._action = opening["action"]
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._busy = False
        self._captions: dict[int, list[Caption]] = {}
        self.root = tkinter.Tk(className="vatt")
        self.root.title("VATT")
        self.root.protocol("WM_DELETE_WINDOW", self.close)
        self._build(opening)
        self.root.after(TICK, self._tick)

    def _build(self, opening: dict[str, Any]) -> None:
        frame = ttk.Frame(self.root, padding=12)
        frame.grid(sticky="nsew")
        self.root.columnconfigure(0, weight=1)
        self.root.rowconfigure(0, weight=1)
        frame.columnconfigure(1, weight=1)
        self.message = tkinter.StringVar(value=opening.get("message", ""))
        if self._action == "problem":
            ttk.Label(frame, textvariable=self.message, wraplength=420).grid(columnspan=2)
        elif self._action == "settings":
            self._build_settings(frame)
        else:
            self._build_work(frame)
        ttk.Button(frame, text="Close", command=self.close).grid(column=1, sticky="e", pady=(8, 0))

    def _build_settings(self, frame: ttk.Frame) -> None:
        settings = self._work.settings
        self.output = tkinter.StringVar(value=settings.output)
        self.takes = tkinter.IntVar(value=settings.takes)
        self.model = tkinter.StringVar(value=settings.model)
        ttk.Label(frame, text="Folder for takes").grid(row=0, sticky="w")
        ttk.Entry(frame, textvariable=self.output, width=48).grid(row=0, column=1, sticky="ew")
        ttk.Button(frame, text="Choose", command=self._choose).grid(row=0, column=2)
        ttk.Label(frame, text="Takes").grid(row=1, sticky="w")
        ttk.Spinbox(frame, from_=1, to=16, textvariable=self.takes, width=5).grid(row=1, column=1, sticky="w")
        ttk.Label(frame, text="Model").grid(row=2, sticky="w")
        ttk.Entry(frame, textvariable=self.model, width=20).grid(row=2, column=1, sticky="w")
        ttk.Button(frame, text="Save", command=self.save).grid(row=3, column=1, sticky="w", pady=(8, 0))
        ttk.Label(frame, textvariable=self.message).grid(row=3, column=2)

    def _choose(self) -> None:
        folder = filedialog.askdirectory(initialdir=self.output.get())
        if folder:
            self.output.set(folder)

    def save(self) -> None:
        """Keep the settings for the next time."""
        try:
            settings = PanelSettings(self.output.get(), self.takes.get(), self.model.get())
            settings.save(self._settings_file)
        except (OSError, tkinter.TclError) as error:
            self.message.set(f"Not saved: {error}")
            return
        kept = PanelSettings.load(self._settings_file) == settings
        self.message.set("Saved." if kept else "Not saved: there is no such number of takes or model name.")

    def _build_work(self, frame: ttk.Frame) -> None:
        self.clip = tkinter.StringVar()
        names = [f"{clip.clip + 1}  {clip.name}" for clip in self._clips]
        self._chooser = ttk.Combobox(frame, values=names, textvariable=self.clip, state="readonly")
        self._chooser.current(0)
        self._chooser.bind("<<ComboboxSelected>>", lambda _: self._show_captions())
        ttk.Label(frame, text="Clip").grid(row=0, sticky="w")
        self._chooser.grid(row=0, column=1, sticky="ew")
        ttk.Label(frame, text="Captions").grid(row=1, sticky="nw")
        self.captions = tkinter.Listbox(frame, height=4, width=56, exportselection=False)
        self.captions.bind("<<ListboxSelect>>", lambda _: self._take_caption())
        self.captions.grid(row=1, column=1, sticky="nsew")
        frame.rowconfigure(1, weight=1)
        self.prompt, self.negative = tkinter.StringVar(), tkinter.StringVar()
        self.takes, self.seed = tkinter.IntVar(value=self._work.settings.takes), tkinter.StringVar()
        if self._action == "another":
            self.prompt.set(str(self._clips[0].made.get("caption") or ""))
        for row, (text, variable) in enumerate((("Prompt", self.prompt), ("Not heard", self.negative)), 2):
            ttk.Label(frame, text=text).grid(row=row, sticky="w")
            ttk.Entry(frame, textvariable=variable).grid(row=row, column=1, sticky="ew")
        line = ttk.Frame(frame)
        line.grid(row=4, column=1, sticky="w")
        ttk.Label(frame, text="Takes").grid(row=4, sticky="w")
        ttk.Spinbox(line, from_=1, to=16, textvariable=self.takes, width=4).grid(row=0, column=0)
        ttk.Label(line, text="   Seed").grid(row=0, column=1)
        ttk.Entry(line, textvariable=self.seed, width=12).grid(row=0, column=2)
        buttons = ttk.Frame(frame)
        buttons.grid(row=5, column=1, sticky="w", pady=8)
        self._buttons = [
            ttk.Button(buttons, text="Suggest captions", command=self.suggest),
            ttk.Button(buttons, text="Generate", command=self.generate),
            ttk.Button(buttons, text="Generate for all", command=self.generate_all),
        ]
        for column, button in enumerate(self._buttons):
            button.grid(row=0, column=column)
        self._cancel_button = ttk.Button(buttons, text="Cancel", command=self.cancel, state="disabled")
        self._cancel_button.grid(row=0, column=3)
        self._bar = ttk.Progressbar(frame, maximum=1.0)
        self._bar.grid(row=6, column=1, sticky="ew")
        ttk.Label(frame, textvariable=self.message, wraplength=420).grid(row=7, column=1, sticky="w")
        if self._action == "suggest":
            self.root.after(TICK, self.suggest)

    # ---- what the buttons do ---------------------------------------------------------------------------------------

    def suggest(self) -> None:
        clip = self._clips[self._chooser.current()]

        def work() -> str:
            found = self._work.captions(clip, on_progress=self._progress)
            self._captions[clip.clip] = found
            self._events.put(self._show_captions)
            return (
                "Click a caption to make it the prompt." if found else "The model has nothing to say about this clip."
            )

        self._start(work)

    def generate(self) -> None:
        self._generate([self._clips[self._chooser.current()]])

    def generate_all(self) -> None:
        self._generate(self._clips)

    def _generate(self, clips: list[Any]) -> None:
        try:
            takes, text = self.takes.get(), self.seed.get().strip()
            seed = int(text) if text else None
        except (ValueError, tkinter.TclError):
            self.message.set("Takes and seed are whole numbers.")
            return
        prompt, negative = self.prompt.get().strip(), self.negative.get().strip()

        def work() -> str:
            told = []
            for clip in clips:
                job, made = self._work.generate(
                    clip, prompt=prompt, negative=negative, takes=takes, seed=seed, on_progress=self._progress
                )
                answer = self._talk.place(clip.clip, job, made)
                told += [f"{clip.name}: on track {one['track']}" for one in answer["placed"]] + answer["problems"]
            return "\n".join(told)

        self._start(work)

    def cancel(self) -> None:
        def work() -> None:
            try:
                self._work.cancel()
            except ClientError as error:
                said = error.message
                self._events.put(lambda: self.message.set(said))

        threading.Thread(target=work, daemon=True).start()

    def close(self) -> None:
        if self._busy:
            self.cancel()
        self.root.destroy()

    # ---- between the thread and the window -------------------------------------------------------------------------

    def _start(self, work: Callable[[], str]) -> None:
        if self._busy:
            return
        self._set_busy(True)

        def run() -> None:
            try:
                said = work()
            except ClientError as error:
                said = error.message
            except (EOFError, OSError, ValueError):
                said = "The script in Resolve has ended: start it again from Workspace > Scripts > VATT."
            self._events.put(lambda: self._done(said))

        threading.Thread(target=run, daemon=True).start()

    def _done(self, said: str) -> None:
        self._set_busy(False)
        self.message.set(said)

    def _set_busy(self, busy: bool) -> None:
        self._busy = busy
        for button in self._buttons:
            button.configure(state="disabled" if busy else "normal")
        self._cancel_button.configure(state="normal" if busy else "disabled")
        self._bar.configure(value=0.0)
        if busy:
            self.message.set("Waiting for the daemon …")

    def _progress(self, progress: Progress) -> None:
        def show() -> None:
            self._bar.configure(value=progress.done / max(1, progress.total))
            left = "" if progress.eta is None else f", {progress.eta:.0f} s left"
            self.message.set(f"{progress.stage}{left}")

        self._events.put(show)

    def _show_captions(self) -> None:
        self.captions.delete(0, "end")
        for caption in self._captions.get(self._clips[self._chooser.current()].clip, []):
            self.captions.insert("end", caption.text)

    def _take_caption(self) -> None:
        chosen = self.captions.curselection()
        if chosen:
            self.prompt.set(self.captions.get(chosen[0]))

    def _tick(self) -> None:
        while not self._events.empty():
            self._events.get()()
        self.root.after(TICK, self._tick)


def show(opening: dict[str, Any], talk: Conversation, work: Work, settings_file: Path) -> None:
    """Show the window until it is closed. Raises tkinter.TclError where there is no screen."""
    Window(opening, talk, work, settings_file).root.mainloop()
    talk.say(type="close")
