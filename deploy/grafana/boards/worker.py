"""Are the batches full, and where does the time go?"""

from __future__ import annotations

from boards.panel import Dashboard, Panel, mean, quantiles

INSTANCE = 'instance=~"$instance"'

WORKER = Dashboard(
    "worker",
    "E-MMDiT: workers",
    "Are the batches full, and where does the time go?",
    (("instance", "emmdit_worker_up"),),
    (
        Panel(
            "Pictures under way",
            "none",
            "Claimed and not yet stored.",
            ((f"emmdit_worker_active_images{{{INSTANCE}}}", "{{instance}}"),),
        ),
        Panel(
            "Steps a second",
            "none",
            "Denoising steps, counted per picture. Nought with pictures under way: it is stuck.",
            (
                (
                    f"sum by (instance) (rate(emmdit_denoise_steps_total{{{INSTANCE}}}[$__rate_interval]))",
                    "{{instance}}",
                ),
            ),
        ),
        Panel(
            "Rows in a forward",
            "percentunit",
            "Mean share of the rows that a forward has room for. Low while jobs wait: look at how sizes are mixed.",
            ((mean("emmdit_batch_occupancy_ratio", "instance", f"{{{INSTANCE}}}"), "{{instance}}"),),
            max=1,
        ),
        Panel(
            "Batch size",
            "none",
            "Mean number of rows or pictures per batch, by stage.",
            ((mean("emmdit_batch_size", "stage", f"{{{INSTANCE}}}"), "{{stage}}"),),
        ),
        Panel(
            "Where the time goes",
            "percentunit",
            "Busy seconds per second by stage, over the chosen workers. PNG and store run beside the device.",
            (
                (
                    f"sum by (stage) (rate(emmdit_stage_duration_seconds_sum{{{INSTANCE}}}[$__rate_interval]))",
                    "{{stage}}",
                ),
            ),
            is_stacked=True,
        ),
        Panel(
            "Duration of a batch",
            "s",
            "95th percentile by stage.",
            quantiles("emmdit_stage_duration_seconds", "stage", f"{{{INSTANCE}}}")[1:],
        ),
        Panel(
            "Duration of a step",
            "s",
            "Mean, by size of the picture and of the batch.",
            (
                (
                    mean("emmdit_denoise_step_duration_seconds", "resolution, batch", f"{{{INSTANCE}}}"),
                    "{{resolution}}, up to {{batch}} rows",
                ),
            ),
        ),
        Panel(
            "Pictures a second",
            "none",
            "Drawn and stored, by size.",
            ((f"sum by (resolution) (rate(emmdit_images_total{{{INSTANCE}}}[$__rate_interval]))", "{{resolution}}"),),
            is_stacked=True,
        ),
        Panel(
            "Device memory in use",
            "percentunit",
            "Allocated, of the device's total. Nothing for a worker on a CPU.",
            (
                (
                    f'emmdit_device_memory_bytes{{kind="allocated", {INSTANCE}}} '
                    f'/ ignoring (kind) emmdit_device_memory_bytes{{kind="total", {INSTANCE}}}',
                    "{{instance}}",
                ),
            ),
            ("EmmditDeviceMemoryHigh",),
            max=1,
        ),
        Panel(
            "Weights in memory",
            "bytes",
            "By part. What models share is there once, under all their names.",
            ((f"emmdit_model_memory_bytes{{{INSTANCE}}}", "{{instance}} {{model}} {{part}}"),),
            is_stacked=True,
        ),
        Panel(
            "Pictures find room",
            "none",
            "1: the store takes this worker's pictures. 0: it is full or away, and the worker claims nothing.",
            ((f"emmdit_worker_can_store{{{INSTANCE}}}", "{{instance}}"),),
            ("EmmditStoreRefuses",),
            max=1,
        ),
        Panel(
            "Refused by the store",
            "none",
            "Finished pictures a second that found no room at first.",
            (
                (
                    f"sum by (instance) (rate(emmdit_store_refusals_total{{{INSTANCE}}}[$__rate_interval]))",
                    "{{instance}}",
                ),
            ),
        ),
        Panel(
            "Last heartbeat",
            "s",
            "How long ago the worker last reached the queue.",
            ((f"time() - emmdit_worker_last_heartbeat_timestamp_seconds{{{INSTANCE}}}", "{{instance}}"),),
            ("EmmditWorkerCutOff",),
        ),
        Panel(
            "Networks",
            "none",
            "Compiled, and failed to compile, since the worker's start.",
            (
                (f"emmdit_worker_compiled_networks{{{INSTANCE}}}", "{{instance}} compiled"),
                (f"emmdit_worker_failed_compilations{{{INSTANCE}}}", "{{instance}} failed"),
            ),
            ("EmmditCompileFailed",),
        ),
        Panel(
            "Text embeddings found in the cache",
            "percentunit",
            "Share of look-ups that were hits: over a quarter of an hour, and over a day.",
            (
                ('emmdit:cache_hit_ratio:rate15m{cache="text"}', "15 minutes"),
                ('emmdit:cache_hit_ratio:rate1d{cache="text"}', "1 day"),
            ),
            max=1,
        ),
        Panel(
            "Size of a picture",
            "bytes",
            "Mean size of the PNGs.",
            ((mean("emmdit_image_bytes", "instance", f"{{{INSTANCE}}}"), "{{instance}}"),),
        ),
        Panel(
            "Workers up",
            "none",
            "1: its model is loaded and it takes jobs.",
            ((f"emmdit_worker_up{{{INSTANCE}}}", "{{instance}}"),),
        ),
    ),
)
