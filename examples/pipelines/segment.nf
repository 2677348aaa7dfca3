// nextflow run segment.nf --study study --model M.save
// Segments every participant of a BIDS tree, each as a task of its own.

params.study = 'study'
params.model = 'M.save'
params.out = 'derivatives'

process SEGMENT {
    tag "${participant}"
    cpus 2
    memory '4 GB'
    publishDir params.out, mode: 'copy'

    input:
    val participant
    path study
    path model

    output:
    path "deepseg/${participant}/**"

    script:
    """
    OMP_NUM_THREADS=${task.cpus} deepseg-bids ${study} deepseg participant \
        --model ${model} --participant-label ${participant} \
        --channels T1=T1w FLAIR=FLAIR --roi nonzero --dev cpu
    """
}

workflow {
    participants = Channel.fromPath("${params.study}/sub-*", type: 'dir').map { it.name }
    SEGMENT(participants, file(params.study), file(params.model))
}
