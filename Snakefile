# cellmill: raw single cells in, training-ready datasets out.
# config in, check, includes in pipeline order, rule all.
from snakemake.utils import min_version

min_version("9.20")


configfile: "config/config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/retrieve.smk"
include: "workflow/rules/process.smk"
include: "workflow/rules/pseudobulk.smk"
include: "workflow/rules/tokenize.smk"
include: "workflow/rules/embed.smk"
include: "workflow/rules/export.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/publish.smk"


report: "workflow/report.rst"


localrules:
    all,


rule all:
    input:
        everything(),
