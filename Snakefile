"""The chain of notebooks of one run: `ethand run` calls this with --directory outputs/NAME.

Paths are below that folder, which is Snakemake's working directory. Commands run in the checkout (`cd {root}`), as the
folder may be a link to elsewhere. They end with Snakemake: `exec` makes it their parent, $PPID.

A stage runs again when its notebook, a module of the package that it imports, a setting that concerns it, or the result
of a stage before it is newer than what the stage made.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import ethand_utils
from ethand_utils.dependencies import module_files
from ethand_utils.experiments.config import load_profile
from ethand_utils.experiments.processes import MODULE
from ethand_utils.experiments.run import own_folder
from ethand_utils.experiments.workflow import gpu_count, render_shards, settings_file, stage_inputs, stages

# A job reads this file as well, and submits nothing.
if not workflow.remote_exec and find_spec("snakemake_executor_plugin_slurm"):
    from ethand_utils.experiments import slurm_executor

    slurm_executor.register()

root = Path(workflow.basedir)
folder = own_folder(root, Path.cwd())
profile = load_profile(folder / "profile.yaml")
steps = {stage.name: stage for stage in stages(profile)}
# With GPUs, as many trainings run at once as the GPUs allow. On a CPU, two trainings side by side use the cores better
# than one that has them all. A cluster's profile gives the number (`config: threads=8`), as its nodes have other cores
# and GPUs than this machine; GPUs are not counted then, as that loads PyTorch.
threads = int(config.get("threads", 0))
threads_per_training = threads or max(1, workflow.cores // (gpu_count() // profile.processes or 2))

# The line on a job that starts, in place of its hundred inputs; a dry run lists these.
say = None if {"-n", "--dry-run", "--dryrun"} & set(sys.argv) else "{rule}, threads: {threads}"

shards = {f"render/{shard.number}-of-{shard.of}.done": shard for shard in render_shards(profile)}

# Stages that most others wait for go first, so that no long training is left alone at the end.
waiting = {name: 0 for name in steps}
for stage in reversed(list(steps.values())):
    for need in stage.needs:
        waiting[need] += 1 + waiting[stage.name]


# All files are targets: Snakemake would not make a missing one, such as a new seed's, before an up-to-date index.html.
rule all:
    input:
        "index.html",
        *[result for stage in steps.values() for result in stage.makes],


for done, shard in shards.items():

    rule:
        name: f"render_{shard.number}_of_{shard.of}"
        input:
            module_files("sources.rendered"),
            settings_file(steps["01_data"]),
        output:
            touch(done),
        params:
            shard=str(shard),
        threads: threads or max(1, workflow.cores // len(shards))
        priority: len(steps)
        message: say
        shell:
            "cd {root:q} && exec {sys.executable:q} -m {MODULE} $PPID - ethand_utils.app.cli "
            "render-shard {folder:q} {params.shard} {threads}"


for stage in steps.values():

    rule:
        name: stage.name
        input:
            stage_inputs(root, stage),
            settings_file(stage),
            *[done for done in shards if stage.name == "01_data"],
            *[result for need in stage.needs for result in steps[need].makes],
        output:
            *stage.makes,
            f"html/{stage.name}.html",
        params:
            name=stage.name,
            parameters=stage.parameters,
        threads: threads_per_training if stage.trains else 1
        resources:
            gpu=stage.gpus,  # no limit where there is no GPU
        priority: waiting[stage.name]
        message: say
        shell:
            "cd {root:q} && export OMP_NUM_THREADS={threads} && "
            "exec {sys.executable:q} -m {MODULE} $PPID - ethand_utils.app.cli stage {folder:q} {params.name}"


rule index:
    input:
        module_files("app.report"),
        "profile.yaml",
        *[str(Path(ethand_utils.__file__).parent / "app/page" / name) for name in ("report.css", "report.html.j2")],
        *[f"html/{name}.html" for name in steps],
        *[result for stage in steps.values() for result in stage.makes],
    output:
        "index.html",
    message: say
    shell:
        "cd {root:q} && exec {sys.executable:q} -m {MODULE} $PPID - ethand_utils.app.cli index {folder:q}"
