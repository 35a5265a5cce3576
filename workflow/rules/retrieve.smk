# in:  a local path, an address, a package       (config/datasets/{dataset}.yaml, resources/ledger.tsv)
# out: results/{dataset}/raw/{part}.h5ad         as found, checksum verified        contract: raw
#      results/{dataset}/raw/{part}.json         where it came from
#      resources/{resource}                      outside files of the ledger
#      results/{dataset}/config.json             the merged, validated configuration


rule write_config:
    output:
        config="results/{dataset}/config.json",
    log:
        "logs/write_config/{dataset}.log",
    benchmark:
        "benchmarks/write_config/{dataset}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=500,
        runtime=5,
    params:
        resolved=lambda wildcards: PROJECT.resolved(wildcards.dataset),
    script:
        "../scripts/write_config.py"


rule retrieve_part:
    input:
        local=local_file,
    output:
        raw="results/{dataset}/raw/{part}.h5ad",
        provenance="results/{dataset}/raw/{part}.json",
    log:
        "logs/retrieve_part/{dataset}.{part}.log",
    benchmark:
        "benchmarks/retrieve_part/{dataset}.{part}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        source=lambda wildcards: plain(dataset_of(wildcards).source),
        contract=str(versions.RAW),
    script:
        "../scripts/retrieve_part.py"


rule retrieve_resource:
    output:
        resource="resources/{resource}",
    log:
        "logs/retrieve_resource/{resource}.log",
    benchmark:
        "benchmarks/retrieve_resource/{resource}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=500,
        runtime=lambda wildcards, attempt: 30 * attempt,
    script:
        "../scripts/retrieve_resource.py"
