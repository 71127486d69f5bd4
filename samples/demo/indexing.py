"""The program itself: an orchestration that indexes the text files of some folders.

One activity per file, one child orchestration per folder, one report at the end. Nothing in here knows of the crash.
"""

import asyncio
import dataclasses
import os

from durable import ActivityContext, App, Orchestration, OrchestrationContext, when_all
from samples.demo import files
from samples.demo.files import Counts
from samples.demo.run_log import note_run

FOLDERS_AT_A_TIME = 16
LARGEST_SHOWN = 5

app = App()


@dataclasses.dataclass(frozen=True)
class FolderCounts:
    folder: str
    counts: Counts


@dataclasses.dataclass(frozen=True)
class Report:
    total: Counts
    folders: int
    largest: list[FolderCounts]


@app.activity
def list_folders(ctx: ActivityContext, roots: list[str]) -> list[str]:
    folders = files.folders_with_text(roots)
    note_run(ctx.idempotency_key)
    return folders


@app.activity
def list_files(ctx: ActivityContext, folder: str) -> list[str]:
    names = files.text_files(folder)
    note_run(ctx.idempotency_key)
    return names


@app.activity
def index_file(ctx: ActivityContext, path: str) -> Counts:
    counts = files.count_file(path)
    note_run(ctx.idempotency_key)
    return counts


@app.orchestrator
def index_folder(ctx: OrchestrationContext, folder: str) -> Orchestration[Counts]:
    names = yield from ctx.call_activity(list_files, folder)
    paths = [os.path.join(folder, name) for name in names]
    return files.add_up((yield from when_all([ctx.call_activity(index_file, path) for path in paths])))


@app.orchestrator
async def index_everything(ctx: OrchestrationContext, roots: list[str]) -> Report:
    folders = await ctx.call_activity(list_folders, roots)
    room = asyncio.Semaphore(FOLDERS_AT_A_TIME)  # a durable one: it is part of the replay
    done = 0

    async def index(folder: str) -> Counts:
        nonlocal done
        async with room:
            counts = await ctx.call_sub_orchestrator(index_folder, folder)
        done += 1
        ctx.set_custom_status({"folders_done": done, "folders": len(folders)})
        return counts

    counts = await asyncio.gather(*[index(folder) for folder in folders])
    found = [FolderCounts(folder, count) for folder, count in zip(folders, counts, strict=True)]
    found.sort(key=lambda entry: (-entry.counts.lines, entry.folder))
    return Report(files.add_up(counts), len(folders), found[:LARGEST_SHOWN])
