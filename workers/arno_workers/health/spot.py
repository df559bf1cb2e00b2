"""A notice that this machine is about to be taken away is the same as SIGTERM.

Both clouds say so a little ahead (AWS two minutes, GCP half a minute) on an address that only the machine itself can
ask. On Kubernetes, and wherever something else turns the notice into a signal, this is not needed.
"""

import os
import signal
from collections.abc import Callable
from threading import Event, Thread
from typing import Literal

import urllib3

from arno_shared.logs import get_logger

log = get_logger(__name__)

Cloud = Literal["aws", "gcp"]

_LOOK_EVERY_S = 5.0
_TIMEOUT = urllib3.Timeout(total=2)


def watch_for_notice(cloud: Cloud) -> None:
    """Starts a thread that sends this process SIGTERM, once, when the cloud has given notice."""
    Thread(target=_watch, args=({"aws": _aws, "gcp": _gcp}[cloud],), name="spot-notice", daemon=True).start()


def _watch(noticed: Callable[[urllib3.PoolManager], bool]) -> None:
    http, pause = urllib3.PoolManager(retries=False, timeout=_TIMEOUT), Event()
    while True:
        try:
            if noticed(http):
                break
        except urllib3.exceptions.HTTPError as error:
            log.warning("waiting", what="the machine's metadata, for a spot notice", error=str(error))
        pause.wait(_LOOK_EVERY_S)
    log.warning("the cloud takes this machine away: the worker stops")
    os.kill(os.getpid(), signal.SIGTERM)


def _aws(http: urllib3.PoolManager) -> bool:
    """Instance metadata, version 2. There is no such document until there is a notice."""
    base = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://169.254.169.254").rstrip("/")
    token = http.request("PUT", f"{base}/latest/api/token", headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"})
    headers = {"X-aws-ec2-metadata-token": token.data.decode()}
    return http.request("GET", f"{base}/latest/meta-data/spot/instance-action", headers=headers).status == 200


def _gcp(http: urllib3.PoolManager) -> bool:
    host = os.environ.get("GCE_METADATA_HOST", "metadata.google.internal")
    answer = http.request(
        "GET", f"http://{host}/computeMetadata/v1/instance/preempted", headers={"Metadata-Flavor": "Google"}
    )
    return answer.status == 200 and answer.data.strip() == b"TRUE"
