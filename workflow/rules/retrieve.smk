# in:  a local path, an address, a package, a catalogue   (config/datasets/{dataset}.yaml, resources/ledger.tsv)
# out: results/{dataset}/plan.tsv                which files make each part, where a catalogue says   contract: plan
#      results/{dataset}/whole/{member}.h5       a file at an address, of which parts take rows; gone when they have them
#      results/{dataset}/whole/{member}.json     what it is
#      results/{dataset}/raw/{part}.h5ad         as found, checksum verified        contract: raw
#      results/{dataset}/raw/{part}.json         where it came from
#      results/{dataset}/raw/{part}.obs.parquet  obs columns that are changed or joined     contract: obs
#      results/{dataset}/tables/enriched.parquet what SRA and BioSample say of samples      contract: enriched
#      results/{dataset}/tables/{table}          a table that is joined, from its address
#      results/{dataset}/found/{part}.h5ad       the same, where a subset is drawn of it; gone when it is drawn
#      results/{dataset}/raw/subset.parquet      what is drawn of each stratum and part   contract: subset
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


# Which parts there are is known when this is done: until then, a dry run shows it, and what comes after all parts.
checkpoint plan_dataset:
    input:
        catalogue=catalogue_files,
    output:
        plan="results/{dataset}/plan.tsv",
    log:
        "logs/plan_dataset/{dataset}.log",
    benchmark:
        "benchmarks/plan_dataset/{dataset}.jsonl"
    wildcard_constraints:
        dataset=planned_datasets(),
    conda:
        "../envs/sources.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 1000 * attempt,
        runtime=lambda wildcards, attempt: 30 * attempt,
    params:
        source=lambda wildcards: plain(dataset_of(wildcards).source),
        contract=str(versions.PLAN),
    script:
        "../scripts/plan_dataset.py"


rule retrieve_file:
    input:
        plan=plan_of,
    output:
        file=temp("results/{dataset}/whole/{member}.h5"),
        about=temp("results/{dataset}/whole/{member}.json"),
    log:
        "logs/retrieve_file/{dataset}.{member}.log",
    benchmark:
        "benchmarks/retrieve_file/{dataset}.{member}.jsonl"
    conda:
        "../envs/sources.yaml"
    threads: 1
    resources:
        mem_mb=600,
        runtime=lambda wildcards, attempt: 720 * attempt,
    params:
        member=whole_file_digest,
        project=billed_project,
        contract=str(versions.RAW),
    script:
        "../scripts/retrieve_file.py"


rule retrieve_part:
    input:
        local=local_file,
        plan=plan_of,
        whole=whole_files,
        about=about_whole_files,
    output:
        raw="results/{dataset}/raw/{part}.h5ad",
        provenance="results/{dataset}/raw/{part}.json",
    log:
        "logs/retrieve_part/{dataset}.{part}.log",
    benchmark:
        "benchmarks/retrieve_part/{dataset}.{part}.jsonl"
    wildcard_constraints:
        dataset=whole_datasets(),
    conda:
        "../envs/sources.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 1200 * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        source=lambda wildcards: plain(dataset_of(wildcards).source.of(wildcards.part)),
        members=members_digest,
        counts=counts_of_members,
        contract=str(versions.RAW),
    script:
        "../scripts/retrieve_part.py"


use rule retrieve_part as retrieve_passing with:
    output:
        raw=temp("results/{dataset}/raw/{part}.h5ad"),
        provenance="results/{dataset}/raw/{part}.json",
    log:
        "logs/retrieve_passing/{dataset}.{part}.log",
    benchmark:
        "benchmarks/retrieve_passing/{dataset}.{part}.jsonl"
    wildcard_constraints:
        dataset=passing_datasets(),


use rule retrieve_part as retrieve_found with:
    output:
        raw=temp("results/{dataset}/found/{part}.h5ad"),
        provenance=temp("results/{dataset}/found/{part}.json"),
    log:
        "logs/retrieve_found/{dataset}.{part}.log",
    benchmark:
        "benchmarks/retrieve_found/{dataset}.{part}.jsonl"
    wildcard_constraints:
        dataset=drawn_datasets(),


rule retrieve_table:
    output:
        table="results/{dataset}/tables/{table}",
    log:
        "logs/retrieve_table/{dataset}.{table}.log",
    benchmark:
        "benchmarks/retrieve_table/{dataset}.{table}.jsonl"
    conda:
        "../envs/sources.yaml"
    threads: 1
    resources:
        mem_mb=500,
        runtime=lambda wildcards, attempt: 30 * attempt,
    params:
        address=lambda wildcards: table_address(wildcards),
    script:
        "../scripts/retrieve_table.py"


rule enrich_samples:
    input:
        found=found_parts,
    output:
        table="results/{dataset}/tables/enriched.parquet",
    log:
        "logs/enrich_samples/{dataset}.log",
    benchmark:
        "benchmarks/enrich_samples/{dataset}.jsonl"
    conda:
        "../envs/sources.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 1000 * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        spec=lambda wildcards: plain(enrichment(wildcards)),
        contract=str(versions.ENRICHED),
    script:
        "../scripts/enrich_samples.py"


rule annotate_part:
    input:
        found="results/{dataset}/raw/{part}.h5ad",
        tables=joined_tables,
    output:
        annotations="results/{dataset}/raw/{part}.obs.parquet",
    log:
        "logs/annotate_part/{dataset}.{part}.log",
    benchmark:
        "benchmarks/annotate_part/{dataset}.{part}.jsonl"
    wildcard_constraints:
        dataset=annotated_datasets(drawn=False),
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=by_input(1000, 1000),
        runtime=by_input(20, 30),
    params:
        rules=lambda wildcards: plain(dataset_of(wildcards).obs_rules),
        contract=str(versions.OBS),
    script:
        "../scripts/annotate_part.py"


use rule annotate_part as annotate_found with:
    input:
        found="results/{dataset}/found/{part}.h5ad",
        tables=joined_tables,
    output:
        annotations=temp("results/{dataset}/found/{part}.obs.parquet"),
    log:
        "logs/annotate_found/{dataset}.{part}.log",
    benchmark:
        "benchmarks/annotate_found/{dataset}.{part}.jsonl"
    wildcard_constraints:
        dataset=annotated_datasets(drawn=True),


rule draw_subset:
    input:
        found=per_part("results/{dataset}/found/{part}.h5ad"),
        annotations=all_annotations,
    output:
        subset="results/{dataset}/raw/subset.parquet",
    log:
        "logs/draw_subset/{dataset}.log",
    benchmark:
        "benchmarks/draw_subset/{dataset}.jsonl"
    wildcard_constraints:
        dataset=drawn_datasets(),
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=by_input(1000, 300),
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        rules=lambda wildcards: plain(dataset_of(wildcards).subset_rules),
        counts=lambda wildcards: dataset_of(wildcards).counts_as_found,
        contract=str(versions.SUBSET),
    script:
        "../scripts/draw_subset.py"


rule take_subset:
    input:
        found="results/{dataset}/found/{part}.h5ad",
        provenance="results/{dataset}/found/{part}.json",
        subset="results/{dataset}/raw/subset.parquet",
        annotations=found_annotations,
    output:
        raw="results/{dataset}/raw/{part}.h5ad",
        provenance="results/{dataset}/raw/{part}.json",
    log:
        "logs/take_subset/{dataset}.{part}.log",
    benchmark:
        "benchmarks/take_subset/{dataset}.{part}.jsonl"
    wildcard_constraints:
        dataset=drawn_kept_datasets(),
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=by_input(1000, 300),
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        counts=lambda wildcards: dataset_of(wildcards).counts_as_found,
        contract=str(versions.RAW),
    script:
        "../scripts/take_subset.py"


use rule take_subset as take_passing with:
    output:
        raw=temp("results/{dataset}/raw/{part}.h5ad"),
        provenance="results/{dataset}/raw/{part}.json",
    log:
        "logs/take_passing/{dataset}.{part}.log",
    benchmark:
        "benchmarks/take_passing/{dataset}.{part}.jsonl"
    wildcard_constraints:
        dataset=drawn_passing_datasets(),


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
