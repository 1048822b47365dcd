"""A Celery application with a directory as its broker."""

from __future__ import annotations

import os
from pathlib import Path

from calls import work
from celery import Celery

folder = Path(os.environ["QUEUE"])
folder.mkdir(exist_ok=True)
app = Celery("tasks", broker="filesystem://", backend=f"file://{folder}")
app.conf.broker_transport_options = {
    "data_folder_in": str(folder),
    "data_folder_out": str(folder),
    "control_folder": str(folder),
}
call = app.task(work, name="call")
