"""A link to a server that carries out what it is asked, whose reply gets lost or comes late."""

import asyncio
from contextlib import asynccontextmanager, suppress


class LossyLink:
    """Replies to requests with `word` in them are dropped, each with its connection, until `num_losses` are.

    All others take `delay_s` longer.
    """

    def __init__(self, socket_path, server_path):
        self.url = f"unix://{socket_path}"
        self.num_losses = 0
        self.num_lost = 0
        self.word = b""
        self.delay_s = 0.0
        self._socket_path = socket_path
        self._server_path = server_path
        self._links = set()

    def lose(self, num_replies, word):
        self.num_losses, self.num_lost, self.word = num_replies, 0, word

    @asynccontextmanager
    async def running(self):
        server = await asyncio.start_unix_server(self._serve, self._socket_path)
        try:
            yield self
        finally:
            server.close()
            for link in self._links:
                link.cancel()
            await asyncio.gather(*self._links, return_exceptions=True)

    async def _serve(self, reader, writer):
        self._links.add(asyncio.current_task())
        try:
            from_server, to_server = await asyncio.open_unix_connection(self._server_path)
            try:
                while request := await reader.read(65536):
                    to_server.write(request)
                    reply = await from_server.read(65536)
                    if self.num_lost < self.num_losses and self.word in request:
                        self.num_lost += 1
                        return
                    await asyncio.sleep(self.delay_s)
                    writer.write(reply)
                    await writer.drain()
            finally:
                to_server.close()
        except asyncio.CancelledError:
            return  # the link ends
        finally:
            self._links.discard(asyncio.current_task())
            with suppress(OSError):
                writer.close()
