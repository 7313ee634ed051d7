"""Who waits, and for how long?"""

from __future__ import annotations

from boards.panel import Dashboard, Panel, quantiles

MODEL = 'model=~"$model"'

QUEUE = Dashboard(
    "queue",
    "E-MMDiT: queue",
    "Who waits, for how long, and is there room? Autoscaling reads the same figures.",
    (("model", "emmdit_num_requests_waiting"),),
    (
        Panel(
            "Oldest waiting",
            "s",
            "Age of the request that has waited longest.",
            ((f"emmdit:queue_oldest_age_seconds:max{{{MODEL}}}", "{{model}}"),),
            ("EmmditQueueAgeHigh", "EmmditQueueAgeCritical"),
        ),
        Panel(
            "Backlog",
            "s",
            "How long the live workers need for what waits. Missing while no worker has measured its speed.",
            ((f"emmdit:queue_backlog_seconds:max{{{MODEL}}}", "{{model}}"),),
        ),
        Panel(
            "Waiting, and room for them",
            "none",
            "At its capacity a queue refuses with 429.",
            (
                (f"emmdit:waiting:max{{{MODEL}}}", "{{model}} waiting"),
                (f"emmdit:queue_capacity:max{{{MODEL}}}", "{{model}} capacity"),
            ),
        ),
        Panel(
            "Workers, and their jobs",
            "none",
            "Workers with a live heartbeat, and the jobs that they hold.",
            (
                (f"emmdit:workers:max{{{MODEL}}}", "{{model}} workers"),
                (f"emmdit:running:max{{{MODEL}}}", "{{model}} running"),
            ),
        ),
        Panel(
            "Work that waits",
            "s",
            "In seconds of one worker. Divided by the patience that you have it is the number of workers to run.",
            ((f"emmdit:queue_backlog_worker_seconds:max{{{MODEL}}}", "{{model}}"),),
        ),
        Panel(
            "Waits of the last minutes",
            "s",
            "From acceptance to start, 95th percentile by priority.",
            (("emmdit:queue_wait_seconds:p95_5m", "{{priority}}"),),
        ),
        Panel(
            "Jobs taken from silent workers",
            "none",
            "In a quarter of an hour. They are drawn again.",
            (("sum(increase(emmdit_redeliveries_total[15m]))", "redelivered"),),
            ("EmmditLeaseReclaims",),
        ),
        Panel(
            "Until the first preview",
            "s",
            "For those who watch their picture form.",
            quantiles("emmdit_time_to_first_preview_seconds"),
        ),
        Panel(
            "Memory of the queue's server",
            "percentunit",
            "Of its limit. Above the red line new jobs are refused.",
            (("max(emmdit_queue_memory_ratio)", "in use"),),
            ("EmmditQueueMemoryHigh", "EmmditQueueMemoryFull"),
            max=1,
        ),
        Panel(
            "Disk for pictures",
            "percentunit",
            "Free share of the disk below data_dir, as each gateway sees it.",
            (
                (
                    'emmdit_data_disk_bytes{kind="free"} / ignoring (kind) emmdit_data_disk_bytes{kind="total"}',
                    "{{instance}}",
                ),
            ),
            ("EmmditDiskSpaceLow", "EmmditDiskSpaceOut"),
            max=1,
        ),
        Panel(
            "Gateways that reach the queue",
            "none",
            "1: it does.",
            (("emmdit_queue_up", "{{instance}}"),),
            ("EmmditQueueUnreachable",),
            max=1,
        ),
        Panel(
            "Cancelled",
            "none",
            "Jobs a second that were called off, by where they were.",
            (("sum by (phase) (rate(emmdit_cancellations_total[$__rate_interval]))", "{{phase}}"),),
        ),
    ),
)
