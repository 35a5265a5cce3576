# in:  results/{dataset}/{format}/{export}/manifest.json and its folder; results/{dataset}/processed/{part}.h5ad
# out: results/{dataset}/published/{format}/{export}.json   an export on the Hugging Face Hub       contract: published
#      results/{dataset}/published/{target}.tsv             the parts on Zenodo or a WebDAV server  contract: published
# No other rule asks for these: they run where they are named on the command line.


rule publish_export:
    input:
        manifest="results/{dataset}/{format}/{export}/manifest.json",
    output:
        said="results/{dataset}/published/{format}/{export}.json",
    log:
        "logs/publish_export/{dataset}.{format}.{export}.log",
    benchmark:
        "benchmarks/publish_export/{dataset}.{format}.{export}.jsonl"
    conda:
        "../envs/publish.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 1000 * attempt,
        runtime=lambda wildcards, attempt: 720 * attempt,
    params:
        hub=lambda wildcards: publish_target(wildcards, "hub"),
        contract=str(versions.PUBLISHED),
    script:
        "../scripts/publish_export.py"


rule publish_parts:
    input:
        processed=per_part("results/{dataset}/processed/{part}.h5ad"),
    output:
        table="results/{dataset}/published/{target}.tsv",
    log:
        "logs/publish_parts/{dataset}.{target}.log",
    benchmark:
        "benchmarks/publish_parts/{dataset}.{target}.jsonl"
    conda:
        "../envs/publish.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 1000 * attempt,
        runtime=lambda wildcards, attempt: 720 * attempt,
    params:
        target=lambda wildcards: publish_target(wildcards, wildcards.target),
        about=about,
        contract=str(versions.PUBLISHED),
    script:
        "../scripts/publish_parts.py"
