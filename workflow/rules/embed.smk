# in:  results/{dataset}/processed/{part}.h5ad, results/{dataset}/genes/genes.parquet
#      results/{dataset}/tokenized/{tokenizer}/{part}.parquet, the files of a model, of a list of genes or a reference
# out: results/{dataset}/embedded/{embedder}/model/part_{part}.npz  products over the training cells   contract: covariance
#      results/{dataset}/embedded/{embedder}/model/pca.npz      components                         contract: pca
#      results/{dataset}/embedded/{embedder}/training/          training cells of all parts        contract: training
#      results/{dataset}/embedded/{embedder}/model/model.pt     of scvi-tools, and manifest.json   contract: scvi
#      results/{dataset}/embedded/{embedder}/{part}.npy         row-aligned vectors, and .json     contract: embedding


rule measure_covariance:
    input:
        processed="results/{dataset}/processed/{part}.h5ad",
        genes="results/{dataset}/genes/genes.parquet",
    output:
        products="results/{dataset}/embedded/{embedder}/model/part_{part}.npz",
    log:
        "logs/measure_covariance/{dataset}.{embedder}.{part}.log",
    benchmark:
        "benchmarks/measure_covariance/{dataset}.{embedder}.{part}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: spare_threads
    resources:
        mem_mb=by_gene_pairs(1000, 60),
        runtime=by_input(20, 30),
    params:
        n_genes=lambda wildcards: embedder_spec(wildcards).n_genes,
        contract=str(versions.COVARIANCE),
    script:
        "../scripts/measure_covariance.py"


rule fit_pca:
    input:
        products=per_part("results/{dataset}/embedded/{embedder}/model/part_{part}.npz"),
        genes="results/{dataset}/genes/genes.parquet",
    output:
        model="results/{dataset}/embedded/{embedder}/model/pca.npz",
    log:
        "logs/fit_pca/{dataset}.{embedder}.log",
    benchmark:
        "benchmarks/fit_pca/{dataset}.{embedder}.jsonl"
    wildcard_constraints:
        dataset=run_datasets(),
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=by_gene_pairs(550, 60),
        runtime=30,
    params:
        embedder=lambda wildcards: plain(embedder_spec(wildcards)),
        contract=str(versions.PCA),
    script:
        "../scripts/fit_pca.py"


rule embed_part:
    input:
        processed="results/{dataset}/processed/{part}.h5ad",
        genes="results/{dataset}/genes/genes.parquet",
        files=embedder_model,
    output:
        vectors="results/{dataset}/embedded/{embedder}/{part}.npy",
        manifest="results/{dataset}/embedded/{embedder}/{part}.json",
    log:
        "logs/embed_part/{dataset}.{embedder}.{part}.log",
    benchmark:
        "benchmarks/embed_part/{dataset}.{embedder}.{part}.jsonl"
    wildcard_constraints:
        embedder=count_embedders(),
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=by_input(900, 300),
        runtime=by_input(20, 30),
    params:
        embedder=lambda wildcards: plain(embedder_spec(wildcards)),
        contract=str(versions.EMBEDDING),
    script:
        "../scripts/embed_part.py"


rule embed_tokens:
    input:
        tokens=embedder_tokens("results/{dataset}/tokenized/{tokenizer}/{part}.parquet"),
        vocabulary=embedder_tokens("results/{dataset}/tokenized/{tokenizer}/vocabulary.json"),
        gene_tokens=embedder_tokens("results/{dataset}/tokenized/{tokenizer}/gene_tokens.parquet"),
        model=embedder_files,
    output:
        vectors="results/{dataset}/embedded/{embedder}/{part}.npy",
        manifest="results/{dataset}/embedded/{embedder}/{part}.json",
    log:
        "logs/embed_tokens/{dataset}.{embedder}.{part}.log",
        rates="benchmarks/embed_tokens/{dataset}.{embedder}.{part}.rates.json",
    benchmark:
        "benchmarks/embed_tokens/{dataset}.{embedder}.{part}.jsonl"
    wildcard_constraints:
        embedder=token_embedders(),
    conda:
        "../envs/transformers.yaml"
    threads: spare_threads
    resources:
        gpu=lambda wildcards: embedder_spec(wildcards).gpus,
        mem_mb=with_device(by_input(1300, 3000, only="model")),
        runtime=lambda wildcards, attempt: 480 * attempt,
    params:
        embedder=lambda wildcards: plain(embedder_spec(wildcards)),
        contract=str(versions.EMBEDDING),
    script:
        "../scripts/embed_tokens.py"


rule gather_training:
    input:
        processed=per_part("results/{dataset}/processed/{part}.h5ad"),
        genes="results/{dataset}/genes/genes.parquet",
        model=embedder_reference,
    output:
        training=temp(directory("results/{dataset}/embedded/{embedder}/training")),
    log:
        "logs/gather_training/{dataset}.{embedder}.log",
    benchmark:
        "benchmarks/gather_training/{dataset}.{embedder}.jsonl"
    wildcard_constraints:
        embedder=trained_cell_embedders(),
    conda:
        "../envs/scvi.yaml"
    threads: 2
    resources:
        mem_mb=by_input(1400, 100),
        runtime=by_input(20, 15),
    params:
        embedder=lambda wildcards: plain(embedder_spec(wildcards)),
        batch=lambda wildcards: dataset_of(wildcards).columns.batch,
        contract=str(versions.TRAINING),
    script:
        "../scripts/gather_training.py"


rule fit_scvi:
    input:
        training="results/{dataset}/embedded/{embedder}/training",
        model=embedder_reference,
    output:
        model="results/{dataset}/embedded/{embedder}/model/model.pt",
        manifest="results/{dataset}/embedded/{embedder}/model/manifest.json",
    log:
        "logs/fit_scvi/{dataset}.{embedder}.log",
        rates="benchmarks/fit_scvi/{dataset}.{embedder}.rates.json",
    benchmark:
        "benchmarks/fit_scvi/{dataset}.{embedder}.jsonl"
    wildcard_constraints:
        embedder=trained_cell_embedders(),
    conda:
        "../envs/scvi.yaml"
    threads: 2
    resources:
        gpu=lambda wildcards: embedder_spec(wildcards).gpus,
        mem_mb=with_device(by_input(1600, 100)),
        runtime=lambda wildcards, attempt: 1440 * attempt,
    params:
        embedder=lambda wildcards: plain(embedder_spec(wildcards)),
        work=checkpoint_folder,
        contract=str(versions.SCVI),
    script:
        "../scripts/fit_scvi.py"


rule embed_scvi:
    input:
        processed="results/{dataset}/processed/{part}.h5ad",
        genes="results/{dataset}/genes/genes.parquet",
        model=cell_model,
    output:
        vectors="results/{dataset}/embedded/{embedder}/{part}.npy",
        manifest="results/{dataset}/embedded/{embedder}/{part}.json",
    log:
        "logs/embed_scvi/{dataset}.{embedder}.{part}.log",
        rates="benchmarks/embed_scvi/{dataset}.{embedder}.{part}.rates.json",
    benchmark:
        "benchmarks/embed_scvi/{dataset}.{embedder}.{part}.jsonl"
    wildcard_constraints:
        embedder=cell_embedders(),
    conda:
        "../envs/scvi.yaml"
    threads: spare_threads
    resources:
        gpu=lambda wildcards: embedder_spec(wildcards).gpus,
        mem_mb=with_device(by_input(1600, 200)),
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        embedder=lambda wildcards: plain(embedder_spec(wildcards)),
        batch=lambda wildcards: dataset_of(wildcards).columns.batch,
        contract=str(versions.EMBEDDING),
    script:
        "../scripts/embed_scvi.py"
