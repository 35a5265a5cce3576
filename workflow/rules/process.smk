# in:  results/{dataset}/raw/{part}.h5ad, and where the dataset asks for them a gene table and lists of genes
# out: results/{dataset}/quality/{part}.parquet          one row per raw cell                 contract: quality
#      results/{dataset}/quality/{part}.genes.parquet    what each column of the part is      contract: part_genes
#      results/{dataset}/quality/{part}.labels.parquet   what its obs table says        contract: labels
#      results/{dataset}/quality/thresholds.json         over all parts, per batch            contract: thresholds
#      results/{dataset}/quality/doublets/{share}.parquet   scores of some batches, if asked for   contract: doublets
#      results/{dataset}/quality/duplicates.parquet      cells of equal content               contract: duplicates
#      results/{dataset}/quality/splits.parquet          groups, strata and their splits      contract: splits
#      results/{dataset}/quality/ledger.parquet          where every cell went                contract: ledger
#      results/{dataset}/genes/{part}.cells.parquet      min_cells: kept cells of each gene   contract: gene_cells
#      results/{dataset}/genes/space.parquet             one gene space                       contract: gene_space
#      results/{dataset}/genes/mapping.parquet           what became of every gene name       contract: gene_mapping
#      results/{dataset}/processed/{part}.h5ad           kept cells, counts, split            contract: counts
#      results/{dataset}/processed/{part}.cells.parquet  what became of every raw cell        contract: cells
#      results/{dataset}/genes/{part}.npz                sums over the training cells         contract: gene_sums
#      results/{dataset}/genes/clipped/model.npz         seurat_v3: expected variances        contract: gene_clip
#      results/{dataset}/genes/clipped/part_{part}.npz   seurat_v3: sums of clipped counts    contract: clipped_sums
#      results/{dataset}/genes/genes.parquet             statistics and variable genes        contract: genes


rule measure_quality:
    input:
        raw="results/{dataset}/raw/{part}.h5ad",
        gene_table=table_of_genes,
        gene_sets=lists_of_sets,
        annotations=raw_annotations,
    output:
        quality="results/{dataset}/quality/{part}.parquet",
        genes="results/{dataset}/quality/{part}.genes.parquet",
    log:
        "logs/measure_quality/{dataset}.{part}.log",
    benchmark:
        "benchmarks/measure_quality/{dataset}.{part}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: spare_threads
    resources:
        mem_mb=by_input(1000, 500),
        runtime=by_input(20, 30),
    params:
        counts=lambda wildcards: dataset_of(wildcards).counts_in_raw,
        genes=lambda wildcards: plain(dataset_of(wildcards).gene_rules),
        cell_ids=lambda wildcards: dataset_of(wildcards).cell_ids,
        batch=lambda wildcards: dataset_of(wildcards).columns.batch,
        contracts=[str(versions.QUALITY), str(versions.PART_GENES)],
    script:
        "../scripts/measure_quality.py"


rule read_labels:
    input:
        raw="results/{dataset}/raw/{part}.h5ad",
        quality="results/{dataset}/quality/{part}.parquet",
        annotations=raw_annotations,
    output:
        labels="results/{dataset}/quality/{part}.labels.parquet",
    log:
        "logs/read_labels/{dataset}.{part}.log",
    benchmark:
        "benchmarks/read_labels/{dataset}.{part}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=by_input(700, 500),
        runtime=by_input(20, 30),
    params:
        rules=lambda wildcards: plain(dataset_of(wildcards).label_rules),
        contract=str(versions.LABELS),
    script:
        "../scripts/read_labels.py"


rule set_thresholds:
    input:
        quality=per_part("results/{dataset}/quality/{part}.parquet"),
        labels=per_part("results/{dataset}/quality/{part}.labels.parquet"),
    output:
        thresholds="results/{dataset}/quality/thresholds.json",
    log:
        "logs/set_thresholds/{dataset}.log",
    benchmark:
        "benchmarks/set_thresholds/{dataset}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=by_input(800, 1500),
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        quality=lambda wildcards: plain(dataset_of(wildcards).threshold_rules),
        contract=str(versions.THRESHOLDS),
    script:
        "../scripts/set_thresholds.py"


rule score_doublets:
    input:
        raw=per_part("results/{dataset}/raw/{part}.h5ad"),
        quality=per_part("results/{dataset}/quality/{part}.parquet"),
        labels=per_part("results/{dataset}/quality/{part}.labels.parquet"),
        genes=per_part("results/{dataset}/quality/{part}.genes.parquet"),
        thresholds="results/{dataset}/quality/thresholds.json",
    output:
        doublets="results/{dataset}/quality/doublets/{share}.parquet",
    log:
        "logs/score_doublets/{dataset}.{share}.log",
    benchmark:
        "benchmarks/score_doublets/{dataset}.{share}.jsonl"
    conda:
        "../envs/doublets.yaml"
    threads: 1
    resources:
        mem_mb=doublet_memory,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        quality=lambda wildcards: plain(doublet_rules(wildcards)),
        shares=lambda wildcards: len(doublet_shares(wildcards)),
        contract=str(versions.DOUBLETS),
    script:
        "../scripts/score_doublets.py"


rule find_duplicates:
    input:
        quality=per_part("results/{dataset}/quality/{part}.parquet"),
        labels=per_part("results/{dataset}/quality/{part}.labels.parquet"),
        thresholds="results/{dataset}/quality/thresholds.json",
        doublets=doublet_scores,
    output:
        duplicates="results/{dataset}/quality/duplicates.parquet",
    log:
        "logs/find_duplicates/{dataset}.log",
    benchmark:
        "benchmarks/find_duplicates/{dataset}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=by_input(900, 1000),
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        quality=lambda wildcards: plain(dataset_of(wildcards).quality),
        contract=str(versions.DUPLICATES),
    script:
        "../scripts/find_duplicates.py"


rule assign_splits:
    input:
        quality=per_part("results/{dataset}/quality/{part}.parquet"),
        labels=per_part("results/{dataset}/quality/{part}.labels.parquet"),
        thresholds="results/{dataset}/quality/thresholds.json",
        doublets=doublet_scores,
        duplicates="results/{dataset}/quality/duplicates.parquet",
        listed=lambda wildcards: list(dataset_of(wildcards).split.files.values()),
    output:
        splits="results/{dataset}/quality/splits.parquet",
    log:
        "logs/assign_splits/{dataset}.log",
    benchmark:
        "benchmarks/assign_splits/{dataset}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=by_input(700, 500),
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        rules=lambda wildcards: plain(dataset_of(wildcards).cell_rules),
        contract=str(versions.SPLITS),
    script:
        "../scripts/assign_splits.py"


rule count_gene_cells:
    input:
        raw="results/{dataset}/raw/{part}.h5ad",
        quality="results/{dataset}/quality/{part}.parquet",
        labels="results/{dataset}/quality/{part}.labels.parquet",
        genes="results/{dataset}/quality/{part}.genes.parquet",
        thresholds="results/{dataset}/quality/thresholds.json",
        doublets=doublet_scores,
        duplicates="results/{dataset}/quality/duplicates.parquet",
        splits="results/{dataset}/quality/splits.parquet",
    output:
        cells="results/{dataset}/genes/{part}.cells.parquet",
    log:
        "logs/count_gene_cells/{dataset}.{part}.log",
    benchmark:
        "benchmarks/count_gene_cells/{dataset}.{part}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: spare_threads
    resources:
        mem_mb=by_input(1000, 500),
        runtime=by_input(20, 30),
    params:
        quality=lambda wildcards: plain(dataset_of(wildcards).quality),
        contract=str(versions.GENE_CELLS),
    script:
        "../scripts/count_gene_cells.py"


rule unify_genes:
    input:
        genes=per_part("results/{dataset}/quality/{part}.genes.parquet"),
        gene_list=list_of_genes,
        gene_table=table_of_genes,
        gene_cells=gene_cells,
    output:
        space="results/{dataset}/genes/space.parquet",
        mapping="results/{dataset}/genes/mapping.parquet",
    log:
        "logs/unify_genes/{dataset}.log",
    benchmark:
        "benchmarks/unify_genes/{dataset}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 800 * attempt,
        runtime=10,
    params:
        genes=lambda wildcards: plain(dataset_of(wildcards).genes),
        contracts=[str(versions.GENE_SPACE), str(versions.GENE_MAPPING)],
    script:
        "../scripts/unify_genes.py"


rule process_part:
    input:
        raw="results/{dataset}/raw/{part}.h5ad",
        quality="results/{dataset}/quality/{part}.parquet",
        labels="results/{dataset}/quality/{part}.labels.parquet",
        genes="results/{dataset}/quality/{part}.genes.parquet",
        thresholds="results/{dataset}/quality/thresholds.json",
        doublets=doublet_scores,
        duplicates="results/{dataset}/quality/duplicates.parquet",
        splits="results/{dataset}/quality/splits.parquet",
        space="results/{dataset}/genes/space.parquet",
        mapping="results/{dataset}/genes/mapping.parquet",
        annotations=raw_annotations,
    output:
        processed="results/{dataset}/processed/{part}.h5ad",
        cells="results/{dataset}/processed/{part}.cells.parquet",
    log:
        "logs/process_part/{dataset}.{part}.log",
    benchmark:
        "benchmarks/process_part/{dataset}.{part}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: spare_threads
    resources:
        mem_mb=by_input(1000, 700),
        runtime=by_input(20, 30),
    params:
        rules=lambda wildcards: plain(dataset_of(wildcards).cell_rules),
        contracts=[str(versions.COUNTS), str(versions.CELLS)],
    script:
        "../scripts/process_part.py"


rule write_ledger:
    input:
        cells=per_part("results/{dataset}/processed/{part}.cells.parquet"),
        labels=per_part("results/{dataset}/quality/{part}.labels.parquet"),
        doublets=doublet_scores,
        duplicates="results/{dataset}/quality/duplicates.parquet",
        annotations=all_annotations,
    output:
        ledger="results/{dataset}/quality/ledger.parquet",
    log:
        "logs/write_ledger/{dataset}.log",
    benchmark:
        "benchmarks/write_ledger/{dataset}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=by_input(700, 1000),
        runtime=lambda wildcards, attempt: 20 * attempt,
    params:
        rules=lambda wildcards: plain(dataset_of(wildcards).cell_rules),
        contract=str(versions.LEDGER),
    script:
        "../scripts/write_ledger.py"


rule measure_genes:
    input:
        processed="results/{dataset}/processed/{part}.h5ad",
    output:
        sums="results/{dataset}/genes/{part}.npz",
    log:
        "logs/measure_genes/{dataset}.{part}.log",
    benchmark:
        "benchmarks/measure_genes/{dataset}.{part}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: spare_threads
    resources:
        mem_mb=by_input(1100, 1000),
        runtime=by_input(20, 30),
    params:
        scale=lambda wildcards: dataset_of(wildcards).variable_genes.scale,
        batch=lambda wildcards: dataset_of(wildcards).gene_batch,
        contract=str(versions.GENE_SUMS),
    script:
        "../scripts/measure_genes.py"


rule fit_clip:
    input:
        sums=per_part("results/{dataset}/genes/{part}.npz"),
    output:
        model="results/{dataset}/genes/clipped/model.npz",
    log:
        "logs/fit_clip/{dataset}.log",
    benchmark:
        "benchmarks/fit_clip/{dataset}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=gene_memory,
        runtime=lambda wildcards, attempt: 30 * attempt,
    params:
        contract=str(versions.GENE_CLIP),
    script:
        "../scripts/fit_clip.py"


rule measure_clipped:
    input:
        processed="results/{dataset}/processed/{part}.h5ad",
        model="results/{dataset}/genes/clipped/model.npz",
    output:
        clipped="results/{dataset}/genes/clipped/part_{part}.npz",
    log:
        "logs/measure_clipped/{dataset}.{part}.log",
    benchmark:
        "benchmarks/measure_clipped/{dataset}.{part}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: spare_threads
    resources:
        mem_mb=by_input(1100, 1000),
        runtime=by_input(20, 30),
    params:
        batch=lambda wildcards: dataset_of(wildcards).gene_batch,
        contract=str(versions.CLIPPED_SUMS),
    script:
        "../scripts/measure_clipped.py"


rule rank_genes:
    input:
        sums=per_part("results/{dataset}/genes/{part}.npz"),
        space="results/{dataset}/genes/space.parquet",
        model=clip_model,
        clipped=clipped_sums,
    output:
        genes="results/{dataset}/genes/genes.parquet",
    log:
        "logs/rank_genes/{dataset}.log",
    benchmark:
        "benchmarks/rank_genes/{dataset}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=gene_memory,
        runtime=lambda wildcards, attempt: 30 * attempt,
    params:
        variable_genes=lambda wildcards: plain(dataset_of(wildcards).variable_genes),
        contract=str(versions.GENES),
    script:
        "../scripts/rank_genes.py"
