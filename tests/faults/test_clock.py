"""The nightly run on the days when the clock changes, and ages by a clock that was set back."""

import asyncio
from datetime import date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import yaml
from prefect.server.schemas.schedules import CronSchedule

REPOSITORY = Path(__file__).parents[2]
# Zone, and its days of the change to summer time and back.
CHANGES = {
    "Europe/Berlin": (date(2026, 3, 29), date(2026, 10, 25)),
    "Europe/London": (date(2026, 3, 29), date(2026, 10, 25)),
    "America/New_York": (date(2026, 3, 8), date(2026, 11, 1)),
    "America/Los_Angeles": (date(2026, 3, 8), date(2026, 11, 1)),
    "Australia/Sydney": (date(2026, 10, 4), date(2026, 4, 5)),
}


def shipped() -> CronSchedule:
    """The schedule of the deployment `nightly`, as Prefect's scheduler sees it."""
    deployments = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["deployments"]
    (nightly,) = [one for one in deployments if one["name"] == "nightly"]
    (schedule,) = nightly["schedules"]
    return CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])


def runs(schedule: CronSchedule, first: date, days: int = 3) -> list[datetime]:
    """All runs in some days, by the code with which Prefect's server makes them."""
    zone = ZoneInfo(schedule.timezone or "UTC")
    start = datetime(first.year, first.month, first.day, tzinfo=zone)
    end = start + timedelta(days=days) - timedelta(seconds=1)  # wall clock: until midnight
    return asyncio.run(schedule.get_dates(n=100, start=start, end=end))


@pytest.mark.parametrize("day", [d for change in CHANGES.values() for d in change])
def test_the_shipped_schedule_runs_once_each_day(day: date) -> None:
    found = runs(shipped(), day - timedelta(days=1))
    assert [f"{when:%F %T %Z}" for when in found] == [
        f"{day + timedelta(days=n)} 03:00:00 UTC" for n in (-1, 0, 1)
    ]


@pytest.mark.parametrize("zone", CHANGES)
@pytest.mark.parametrize("change", [0, 1], ids=["to summer", "back"])
def test_in_a_zone_with_summer_time_three_o_clock_comes_once(zone: str, change: int) -> None:
    day = CHANGES[zone][change]
    found = runs(CronSchedule(cron="0 3 * * *", timezone=zone), day - timedelta(days=1))
    local = [when.astimezone(ZoneInfo(zone)) for when in found]
    assert [f"{when:%F %H:%M}" for when in local] == [
        f"{day + timedelta(days=n)} 03:00" for n in (-1, 0, 1)
    ]
    assert len({when.timestamp() for when in found}) == 3
