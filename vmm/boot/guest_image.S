/* The test guest's ELF file, as data of this program. */
        .section .rodata.underfoot_guest, "a", @progbits
        .balign 16
        .globl  underfoot_guest_image_begin
        .globl  underfoot_guest_image_end
underfoot_guest_image_begin:
        .incbin UNDERFOOT_GUEST_IMAGE
underfoot_guest_image_end:
        .section .note.GNU-stack, "", @progbits
