"""`emmdit worker` that stores its pictures and never says that a job is done: what a kill in between leaves behind."""

import asyncio

from service.cli.app import main
from service.delivery import Delivery


async def _never(self, job, result):
    print(f"stored {job.id}", flush=True)
    await asyncio.sleep(3600)


if __name__ == "__main__":
    Delivery.finish = _never
    main()
