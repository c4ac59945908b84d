"""restore: an archive's data in the place of the cluster's.

The verb makes it ready beside the data directory and asks in etcd (key ``restore``); leaderl carries it out.
Until etcd says that the restored data is the cluster's, nothing of the old has been touched, and a verb that is killed
leaves only a folder that the next one clears. From then on leaderl finishes it, whether anybody waits for it or not.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from typing import Any

from chefha_core import codec
from chefha_core.backup.archive import About
from chefha_core.backup.errors import ArchiveError
from chefha_core.model import EtcdView, Position, Restoration
from chefha_core.parts.etcd import Compare, Delete, EtcdClient, EtcdError, Put
from chefha_core.parts.postgres_tools import Places, PostgresError
from chefha_core.plan.facts import next_timeline
from chefha_core.settings import Settings
from chefha_core.verbs import restore_checks as checks
from chefha_core.verbs import restore_watch
from chefha_core.verbs.reach import PATIENCE, VerbError, etcd_client
from chefha_core.verbs.restore_staging import Staging
from chefha_core.verbs.restore_watch import NotRestored, await_restored
from chefha_core.verbs.steps import OnStep, Steps, nobody_looks

#: what is left to people
THEN = "now take a full backup; where there is search, rebuild it: chef-server-ctl reindex -a -t on a front end"
STEPS = (
    "looked at what could stand in the way",
    "archive extracted, every checksum right",
    "log replayed, data promoted and stopped, beside the present data",
    "asked leaderl to exchange the data",
    *restore_watch.STEPS,
)


def restore(
    settings: Settings,
    name: str,
    path: str,
    staging_dir: str = "",
    timeout: float = 3600.0,
    target_time: str = "",
    foreign: bool = False,
    agree: Callable[[str], None] = lambda what: None,
    on_step: OnStep = nobody_looks,
    places: Places | None = None,
) -> dict[str, Any]:
    """Replace the cluster's data by the archive at ``path`` (or, by its name, in the configured store).

    ``agree`` is asked once everything that could be refused at once was looked at; it raises to go no further.
    VerbError with one sentence, and nothing changed, if it is refused; times are seconds.
    """
    where = places or Places.of(settings)
    steps, source = Steps(STEPS, on_step), _source(settings, path)
    client = etcd_client(settings, name, PATIENCE)
    try:
        moment = checks.moment(target_time)
        view = _look(client)
        _refuse(checks.refusal(settings, view, name))  # first: another node may not have the archive
        about = source.about()
        _refuse(checks.archive_refusal(settings, view, about, foreign, where) or checks.time_refusal(moment, about))
        with Staging(where, staging_dir, view) as staging:
            staging.check_room(about)
            agree(_question(settings, view, source.label, about))
            steps.done(STEPS[0])
            with steps.rest():
                request = _make_ready(settings, name, view, source, about, moment, staging, steps, timeout)
                try:
                    _ask(client, request)
                    steps.done(STEPS[3])
                    until = steps.began + timeout
                    after = await_restored(client, settings, request, until, where, steps.done, steps.going_on)
                except NotRestored:  # otherwise leaderl may be about to take it
                    staging.withdraw()
                    raise
        return {
            **after,
            "archive": source.label,
            "taken": about.time,
            "seconds": steps.rows[-1]["seconds"],
            "steps": steps.rows,
            "then": THEN,
        }
    except EtcdError as error:
        raise VerbError(f"restore: etcd does not answer with a quorum ({error}); see cluster-status") from error
    except (ArchiveError, PostgresError) as error:
        raise VerbError(f"restore {source.label}: {error}; nothing was changed") from error
    except codec.DamagedKey as error:
        raise VerbError(f"restore: {error}; nothing was changed") from error
    finally:
        client.close()


def _source(settings: Settings, path: str) -> checks.Source:
    try:
        return checks.Source(settings, path)
    except ArchiveError as error:
        raise VerbError(f"restore {path}: {error}; nothing was changed") from None


def _make_ready(
    settings: Settings,
    name: str,
    view: EtcdView,
    source: checks.Source,
    about: About,
    moment: datetime.datetime | None,
    staging: Staging,
    steps: Steps,
    timeout: float,
) -> Restoration:
    """Everything beside the data directory: whole, checked, replayed, promoted, stopped."""
    assert view.leader is not None
    until = steps.began + timeout

    def progress(part: str, done: int) -> None:
        steps.going_on(f"extracting and checking {part}", f"{done >> 20} MiB")
        if time.monotonic() > until:
            raise ArchiveError(f"not extracted within {timeout:g} s; give a longer --timeout")

    extracted = source.extract(staging.data, staging.places, timeout, progress)
    if extracted != about:
        raise ArchiveError("it has changed while it was read")
    steps.done(STEPS[1])
    target = source.target(moment, about, staging.data)
    timeline = next_timeline(view, Position(max(about.timeline, target.timeline), 0))
    system_id = staging.make_ready(settings, timeline, target, until, lambda: steps.going_on("replaying", ""))
    steps.done(STEPS[2])
    return Restoration(name, view.leader.epoch, system_id, timeline, source.label)


def _question(settings: Settings, view: EtcdView, label: str, about: About) -> str:
    """What a person has to agree to."""
    away = ", ".join(name for name in settings.members if name not in view.members)
    text = f"All data of the cluster {settings.cluster} is replaced by {label}, taken at {about.time}."
    return f"{text} {away} does not report, and is to clone it when it is back." if away else text


def _look(client: EtcdClient) -> EtcdView:
    return codec.view(client.range(), time.monotonic())


def _refuse(why: str) -> None:
    if why:
        raise VerbError(f"restore: {why}; nothing was changed")


def _ask(client: EtcdClient, request: Restoration) -> None:
    """Write the request, unless somebody else asked for something meanwhile."""
    view = _look(client)
    leader = view.leader
    if leader is None or (leader.name, leader.epoch) != (request.by, request.epoch):
        raise NotRestored(
            f"restore: {leader.name if leader else 'nobody'} leads now, epoch {request.epoch} is over; "
            "nothing was changed, begin again on the leader"
        )
    value = codec.dump(request)
    old = view.restore  # of an earlier epoch, or it had been refused
    same = Compare.mod_revision("restore", old.mod_revision) if old else Compare.absent("restore")
    done = client.txn([same, Compare.absent("intent")], [Put("restore", value), Delete("restore_result")])
    if done.succeeded or ((kv := client.get("restore")) is not None and kv.value == value):
        return
    if done.doubtful:  # its first attempt may have been carried out already, or come yet
        raise VerbError("restore: it is not certain that it was asked for; look at cluster-status, then try again")
    raise NotRestored("restore: somebody else asked for a restoration or a hand-over meanwhile; nothing was changed")
