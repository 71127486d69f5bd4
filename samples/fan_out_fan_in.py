"""Fan-out, fan-in: many activities at once, then one result made of theirs.

The words of every Python file in a folder are counted, each file in an activity of its own.

    python samples/fan_out_fan_in.py [STORE_URL [FOLDER]]
"""

import asyncio
import sys
from collections import Counter
from pathlib import Path

from durable import App, OrchestrationContext, Worker, when_all

app = App()


@app.activity
def list_files(folder: str) -> list[str]:
    return sorted(str(path) for path in Path(folder).glob("*.py"))


@app.activity
def count_words(path: str) -> dict[str, int]:
    words = Path(path).read_text(encoding="utf-8").split()
    return dict(Counter(word for word in words if word.isalpha()))


@app.orchestrator
async def most_common_words(ctx: OrchestrationContext, folder: str) -> list[tuple[str, int]]:
    paths = await ctx.call_activity(list_files, folder)
    counts = await when_all([ctx.call_activity(count_words, path) for path in paths])
    total = Counter[str]()
    for count in counts:
        total.update(count)
    return total.most_common(5)


async def main(store: str = "memory://", folder: str = str(Path(__file__).parent)) -> list[tuple[str, int]]:
    async with Worker(app, store) as worker:
        words = await worker.client.run(most_common_words, folder, timeout=30)
    for word, count in words:
        print(f"{count:6} {word}")
    return words


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
