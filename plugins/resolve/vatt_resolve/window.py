"""The small window of the panel (Tk): captions to click, prompt, takes, progress, cancel."""

from __future__ import annotations

import tkinter
from tkinter import filedialog, ttk

from vatt_resolve.desk import Desk
from vatt_resolve.panel import PanelSettings

TICK = 80
"""Milliseconds between two looks at the desk."""


class Window:
    """Shows a desk until the user closes it. The desk works in a thread of its own; `_tick` alone touches the widgets."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self._shown = -1
        self.root = tkinter.Tk(className="vatt")
        self.root.title("VATT")
        self.root.protocol("WM_DELETE_WINDOW", self.close)
        self._build()
        self._tick()

    def _build(self) -> None:
        frame = ttk.Frame(self.root, padding=12)
        frame.grid(sticky="nsew")
        self.root.columnconfigure(0, weight=1)
        self.root.rowconfigure(0, weight=1)
        frame.columnconfigure(1, weight=1)
        self.message = tkinter.StringVar()
        if self.desk.action == "problem":
            ttk.Label(frame, textvariable=self.message, wraplength=420).grid(columnspan=2)
        elif self.desk.action == "settings":
            self._build_settings(frame)
        else:
            self._build_work(frame)
        ttk.Button(frame, text="Close", command=self.close).grid(column=1, sticky="e", pady=(8, 0))

    def _build_settings(self, frame: ttk.Frame) -> None:
        settings = self.desk.settings
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
            self.desk.save(PanelSettings(self.output.get(), self.takes.get(), self.model.get()))
        except tkinter.TclError as error:
            self.desk.say(f"Not saved: {error}")

    def _build_work(self, frame: ttk.Frame) -> None:
        names = [f"{clip.clip + 1}  {clip.name}" for clip in self.desk.clips]
        self._chooser = ttk.Combobox(frame, values=names, state="readonly")
        self._chooser.current(0)
        self._chooser.bind("<<ComboboxSelected>>", lambda _: self._show_captions())
        ttk.Label(frame, text="Clip").grid(row=0, sticky="w")
        self._chooser.grid(row=0, column=1, sticky="ew")
        ttk.Label(frame, text="Captions").grid(row=1, sticky="nw")
        self.captions = tkinter.Listbox(frame, height=4, width=56, exportselection=False)
        self.captions.bind("<<ListboxSelect>>", lambda _: self._take_caption())
        self.captions.grid(row=1, column=1, sticky="nsew")
        frame.rowconfigure(1, weight=1)
        self.prompt, self.negative = tkinter.StringVar(value=self.desk.prompt), tkinter.StringVar()
        self.takes, self.seed = tkinter.IntVar(value=self.desk.settings.takes), tkinter.StringVar()
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
        self._cancel_button = ttk.Button(buttons, text="Cancel", command=self.desk.cancel, state="disabled")
        self._cancel_button.grid(row=0, column=3)
        self._bar = ttk.Progressbar(frame, maximum=1.0)
        self._bar.grid(row=6, column=1, sticky="ew")
        ttk.Label(frame, textvariable=self.message, wraplength=420).grid(row=7, column=1, sticky="w")
        if self.desk.action == "suggest":
            self.root.after(TICK, self.suggest)

    # ---- what the buttons do ---------------------------------------------------------------------------------------

    def suggest(self) -> None:
        self.desk.suggest(self._chooser.current())

    def generate(self) -> None:
        self._generate([self._chooser.current()])

    def generate_all(self) -> None:
        self._generate(list(range(len(self.desk.clips))))

    def _generate(self, clips: list[int]) -> None:
        try:
            takes, text = self.takes.get(), self.seed.get().strip()
            seed = int(text) if text else None
        except (ValueError, tkinter.TclError):
            self.desk.say("Takes and seed are whole numbers.")
            return
        self.desk.generate(
            clips, prompt=self.prompt.get().strip(), negative=self.negative.get().strip(), takes=takes, seed=seed
        )

    def close(self) -> None:
        self.root.destroy()

    # ---- what the desk shows ---------------------------------------------------------------------------------------

    def _tick(self) -> None:
        version = self.desk.version
        if version != self._shown:
            self._shown = version
            self.message.set(self.desk.message)
            if self.desk.clips:
                self._show_captions()
                self._show_work()
        self.root.after(TICK, self._tick)

    def _show_work(self) -> None:
        busy = self.desk.busy
        for button in self._buttons:
            button.configure(state="disabled" if busy else "normal")
        self._cancel_button.configure(state="normal" if busy else "disabled")
        self._bar.configure(value=self.desk.progress)

    def _show_captions(self) -> None:
        texts = tuple(caption.text for caption in self.desk.captions.get(self._chooser.current(), []))
        if self.captions.get(0, "end") != texts:
            self.captions.delete(0, "end")
            self.captions.insert("end", *texts)

    def _take_caption(self) -> None:
        chosen = self.captions.curselection()
        if chosen:
            self.prompt.set(self.captions.get(chosen[0]))


def show(desk: Desk) -> None:
    """Show the window until it is closed. Raises tkinter.TclError where there is no screen."""
    Window(desk).root.mainloop()
