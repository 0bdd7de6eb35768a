/* The compiled dsdt.asl, as data of this program. */
        .section .rodata.underfoot_dsdt, "a", @progbits
        .balign 16
        .globl  underfoot_dsdt_begin
        .globl  underfoot_dsdt_end
underfoot_dsdt_begin:
        .incbin UNDERFOOT_DSDT
underfoot_dsdt_end:
        .section .note.GNU-stack, "", @progbits
