# in:  results/{dataset}/processed/{part}.h5ad, results/{dataset}/genes/genes.parquet
# out: results/{dataset}/embedded/{embedder}/model/{part}.npz   products over the training cells   contract: covariance
#      results/{dataset}/embedded/{embedder}/model/pca.npz      components                         contract: pca
#      results/{dataset}/embedded/{embedder}/{part}.npy         float32, row-aligned, and .json    contract: embedding


def embedder_spec(wildcards):
    known = PROJECT.config.embedders
    if wildcards.embedder not in known:
        raise WorkflowError(f"No embedder '{wildcards.embedder}' in config/config.yaml, which has: {', '.join(known)}.")
    return known[wildcards.embedder]


def embedder_model(wildcards):
    """The fitted model, where the embedder learns one."""
    folder = f"results/{wildcards.dataset}/embedded/{wildcards.embedder}/model"
    return [f"{folder}/pca.npz"] if embedder_spec(wildcards).learns else []


rule measure_covariance:
    input:
        processed="results/{dataset}/processed/{part}.h5ad",
        genes="results/{dataset}/genes/genes.parquet",
    output:
        products="results/{dataset}/embedded/{embedder}/model/part_{part}.npz",
    params:
        embedder=lambda wildcards: plain(embedder_spec(wildcards)),
        contract=str(versions.COVARIANCE),
    log:
        "logs/measure_covariance/{dataset}.{embedder}.{part}.log",
    benchmark:
        "benchmarks/measure_covariance/{dataset}.{embedder}.{part}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    script:
        "../scripts/measure_covariance.py"


rule fit_pca:
    input:
        products=per_part("results/{dataset}/embedded/{embedder}/model/part_{part}.npz"),
    output:
        model="results/{dataset}/embedded/{embedder}/model/pca.npz",
    params:
        embedder=lambda wildcards: plain(embedder_spec(wildcards)),
        contract=str(versions.PCA),
    log:
        "logs/fit_pca/{dataset}.{embedder}.log",
    benchmark:
        "benchmarks/fit_pca/{dataset}.{embedder}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=30,
    script:
        "../scripts/fit_pca.py"


rule embed_part:
    input:
        processed="results/{dataset}/processed/{part}.h5ad",
        genes="results/{dataset}/genes/genes.parquet",
        model=embedder_model,
    output:
        vectors="results/{dataset}/embedded/{embedder}/{part}.npy",
        manifest="results/{dataset}/embedded/{embedder}/{part}.json",
    params:
        embedder=lambda wildcards: plain(embedder_spec(wildcards)),
        contract=str(versions.EMBEDDING),
    log:
        "logs/embed_part/{dataset}.{embedder}.{part}.log",
    benchmark:
        "benchmarks/embed_part/{dataset}.{embedder}.{part}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    script:
        "../scripts/embed_part.py"
