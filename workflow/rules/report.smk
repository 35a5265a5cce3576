# in:  quality, thresholds, cells, genes, tokens and embeddings of all parts; the manifests of the exports
# out: results/{dataset}/report/quality.svg    metrics of every raw cell, with the thresholds     contract: report
#      results/{dataset}/report/cells.svg      where the cells went
#      results/{dataset}/report/genes.svg      which genes vary
#      results/{dataset}/report/umap.png       the cells, by label, batch and split
#      results/{dataset}/report/doublets.svg   scores of doublets, where the dataset looks for them
#      results/{dataset}/report/judged/{embedder}.json  what the embedder scores              contract: judged
#      results/{dataset}/report/embedders.tsv  all embedders side by side, and .svg          contract: report
#      results/{dataset}/report/index.html     one page with everything, for eyes


rule draw_report:
    input:
        quality=per_part("results/{dataset}/quality/{part}.parquet"),
        cells=per_part("results/{dataset}/processed/{part}.cells.parquet"),
        processed=per_part("results/{dataset}/processed/{part}.h5ad"),
        embedding=umap_embedding,
        thresholds="results/{dataset}/quality/thresholds.json",
        genes="results/{dataset}/genes/genes.parquet",
        ledger="results/{dataset}/quality/ledger.parquet",
    output:
        quality=report(
            "results/{dataset}/report/quality.svg",
            caption="../report/quality.rst",
            category="{dataset}",
            labels={"figure": "Quality of the cells"},
        ),
        cells=report(
            "results/{dataset}/report/cells.svg",
            caption="../report/cells.rst",
            category="{dataset}",
            labels={"figure": "Where the cells went"},
        ),
        genes=report(
            "results/{dataset}/report/genes.svg",
            caption="../report/genes.rst",
            category="{dataset}",
            labels={"figure": "Variable genes"},
        ),
        umap=report(
            "results/{dataset}/report/umap.png",
            caption="../report/umap.rst",
            category="{dataset}",
            labels={"figure": "UMAP"},
        ),
    log:
        "logs/draw_report/{dataset}.log",
    benchmark:
        "benchmarks/draw_report/{dataset}.jsonl"
    conda:
        "../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 1500 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        label=lambda wildcards: dataset_of(wildcards).columns.label,
        batch=lambda wildcards: dataset_of(wildcards).columns.batch,
        splits=lambda wildcards: list(dataset_of(wildcards).split.fractions),
        contract=str(versions.REPORT),
    script:
        "../scripts/draw_report.py"


rule draw_doublets:
    input:
        doublets=doublet_scores,
    output:
        doublets=report(
            "results/{dataset}/report/doublets.svg",
            caption="../report/doublets.rst",
            category="{dataset}",
            labels={"figure": "Doublets"},
        ),
    log:
        "logs/draw_doublets/{dataset}.log",
    benchmark:
        "benchmarks/draw_doublets/{dataset}.jsonl"
    conda:
        "../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 800 * attempt,
        runtime=lambda wildcards, attempt: 20 * attempt,
    params:
        contract=str(versions.REPORT),
    script:
        "../scripts/draw_doublets.py"


rule judge_embedder:
    input:
        processed=per_part("results/{dataset}/processed/{part}.h5ad"),
        embedding=per_part("results/{dataset}/embedded/{embedder}/{part}.npy"),
    output:
        judged="results/{dataset}/report/judged/{embedder}.json",
    log:
        "logs/judge_embedder/{dataset}.{embedder}.log",
    benchmark:
        "benchmarks/judge_embedder/{dataset}.{embedder}.jsonl"
    conda:
        "../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 1500 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        rules=lambda wildcards: plain(judge_rules(wildcards)),
        contract=str(versions.JUDGED),
    script:
        "../scripts/judge_embedder.py"


rule compare_embedders:
    input:
        judged=judged_embedders,
    output:
        table="results/{dataset}/report/embedders.tsv",
        figure=report(
            "results/{dataset}/report/embedders.svg",
            caption="../report/embedders.rst",
            category="{dataset}",
            labels={"figure": "Embedders"},
        ),
    log:
        "logs/compare_embedders/{dataset}.log",
    benchmark:
        "benchmarks/compare_embedders/{dataset}.jsonl"
    conda:
        "../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=500,
        runtime=10,
    params:
        contract=str(versions.REPORT),
    script:
        "../scripts/compare_embedders.py"


rule write_report:
    input:
        figures=figures,
        judged=judged_embedders,
        manifests=export_manifests,
        doublets=doublet_scores,
        tokens=all_tokens,
        vocabularies=outside_vocabularies("vocabulary.json"),
        gene_tokens=outside_vocabularies("gene_tokens.parquet"),
        embeddings=embedding_manifests,
        ledger="results/{dataset}/quality/ledger.parquet",
        thresholds="results/{dataset}/quality/thresholds.json",
        genes="results/{dataset}/genes/genes.parquet",
        config="results/{dataset}/config.json",
        subset=subset_table,
        pseudobulk=pseudobulk_files,
    output:
        page="results/{dataset}/report/index.html",
    log:
        "logs/write_report/{dataset}.log",
    benchmark:
        "benchmarks/write_report/{dataset}.jsonl"
    conda:
        "../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 700 * attempt,
        runtime=10,
    params:
        title=lambda wildcards: dataset_of(wildcards).title,
        splits=lambda wildcards: list(dataset_of(wildcards).split.fractions),
        contract=str(versions.REPORT),
    script:
        "../scripts/write_report.py"
