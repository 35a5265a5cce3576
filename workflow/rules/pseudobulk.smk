# in:  results/{dataset}/processed/{part}.h5ad
# out: results/{dataset}/pseudobulk/{pseudobulk}/{part}.h5ad   sums of the groups of a part     contract: group_sums
#      results/{dataset}/pseudobulk/{pseudobulk}.h5ad          profiles of groups of cells      contract: pseudobulk


rule sum_groups:
    input:
        processed="results/{dataset}/processed/{part}.h5ad",
    output:
        sums="results/{dataset}/pseudobulk/{pseudobulk}/{part}.h5ad",
    log:
        "logs/sum_groups/{dataset}.{pseudobulk}.{part}.log",
    benchmark:
        "benchmarks/sum_groups/{dataset}.{pseudobulk}.{part}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: spare_threads
    resources:
        mem_mb=by_input(1500, 4000),
        runtime=by_input(20, 30),
    params:
        spec=lambda wildcards: plain(pseudobulk_spec(wildcards)),
        columns=lambda wildcards: dataset_of(wildcards).kept_columns,
        contract=str(versions.GROUP_SUMS),
    script:
        "../scripts/sum_groups.py"


rule write_pseudobulk:
    input:
        sums=per_part("results/{dataset}/pseudobulk/{pseudobulk}/{part}.h5ad"),
    output:
        profiles="results/{dataset}/pseudobulk/{pseudobulk}.h5ad",
    log:
        "logs/write_pseudobulk/{dataset}.{pseudobulk}.log",
    benchmark:
        "benchmarks/write_pseudobulk/{dataset}.{pseudobulk}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=by_input(2000, 15000),
        runtime=by_input(20, 30),
    params:
        spec=lambda wildcards: plain(pseudobulk_spec(wildcards)),
        contract=str(versions.PSEUDOBULK),
    script:
        "../scripts/write_pseudobulk.py"
