"""OpenStack Swift with its S3 interface, all four servers in one process: `python swift_process.py FOLDER`.

Prints its address when it listens. One disk, one copy; objects lie in FOLDER as files with extended attributes.
"""

import json
import sys
from pathlib import Path

ACCESS_KEY, SECRET_KEY = "test:tester", "testing"
PROXY = """
[DEFAULT]
swift_dir = {folder}

[pipeline:main]
pipeline = catch_errors cache s3api tempauth proxy-server

[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true

[filter:catch_errors]
use = egg:swift#catch_errors

[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:1

[filter:s3api]
use = egg:swift#s3api

[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
"""


def main(folder):
    import eventlet

    eventlet.monkey_patch()  # before anything below is imported, and in no process but this one

    from eventlet import wsgi
    from swift.account.server import AccountController
    from swift.common import utils
    from swift.common.ring.builder import RingBuilder
    from swift.common.wsgi import loadapp
    from swift.container.server import ContainerController
    from swift.obj.server import ObjectController

    (folder / "disk").mkdir(parents=True)
    utils.HASH_PATH_PREFIX, utils.HASH_PATH_SUFFIX = b"", b"test"
    options = {"devices": str(folder), "mount_check": "false", "disable_fallocate": "true", "swift_dir": str(folder)}
    listeners = {}
    for name in ("object", "container", "account"):
        listeners[name] = eventlet.listen(("127.0.0.1", 0))
        builder = RingBuilder(1, 1, 0)
        port = listeners[name].getsockname()[1]
        place = {"ip": "127.0.0.1", "replication_ip": "127.0.0.1", "port": port, "replication_port": port}
        builder.add_dev({"id": 0, "region": 1, "zone": 1, "weight": 1, "device": "disk", **place})
        builder.rebalance()
        builder.get_ring().save(str(folder / f"{name}.ring.gz"))
    servers = {"object": ObjectController, "container": ContainerController, "account": AccountController}
    for name, server in servers.items():
        eventlet.spawn(wsgi.server, listeners[name], server(options), log_output=False)
    conf = folder / "proxy.conf"
    conf.write_text(PROXY.format(folder=folder))
    proxy = loadapp(str(conf), {})
    listener = eventlet.listen(("127.0.0.1", 0))
    print(json.dumps({"url": f"http://127.0.0.1:{listener.getsockname()[1]}"}), flush=True)
    wsgi.server(listener, proxy, log_output=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
