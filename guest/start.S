/*
 * Entry of every vCPU, in ring 0, and the way back into ring 0: exceptions and the end.
 *
 * Ring 0 does as little as it can: some hosts emulate it instruction by instruction.
 */
        .set    KERNEL_STACK_BYTES, 0x2000      /* descriptors.h: kKernelStackBytes */
        .set    USER_CODE, 0x1b
        .set    USER_DATA, 0x23
        .set    EXIT_PORT, 0x501                /* abi.h: kExitPort */
        .set    VERDICT_EXCEPTION, 2            /* abi.h: Verdict::kException */

        .text
        .globl  GuestEntry
GuestEntry:                                     /* rdi: BootInfo  rsi: index  rsp: StackTop */
        pushq   %rdi
        pushq   %rsi
        movq    %rsi, %rdi
        call    LoadDescriptors
        popq    %rsi
        popq    %rdi
        movl    $USER_DATA, %eax
        movl    %eax, %ds
        movl    %eax, %es
        movl    %eax, %fs
        movl    %eax, %gs
        /* rsp is StackTop again; the ring-3 stack lies below the kernel's part of it. A function
           expects to be called: rsp + 8 is a multiple of 16. */
        leaq    -(KERNEL_STACK_BYTES + 8)(%rsp), %rdx
        pushq   $USER_DATA
        pushq   %rdx
        pushq   $2                              /* rflags: no IOPL, the TSS opens the ports */
        pushq   $USER_CODE
        pushq   $GuestMain
        iretq

/*
 * One stub of 16 bytes for each vector, at the start of the image. Each leaves
 * vector, error code, rip, cs, rflags, rsp, ss on the stack (traps.h: TrapFrame).
 */
        .section .traps, "ax", @progbits
        .globl  TrapStubs
TrapStubs:
        .set    vector, 0
        .rept   32
        .balign 16
        .if     (vector != 8) && (vector != 17) && (vector != 21) && ((vector < 10) || (vector > 14))
        pushq   $0
        .endif
        pushq   $vector
        jmp     CommonTrap
        .set    vector, vector + 1
        .endr
        .balign 16

CommonTrap:
        cmpq    $3, (%rsp)                      /* int3: ring 3 asks for the end */
        je      EndOfVcpu
        movq    %rsp, %rdi
        cld
        call    OnTrap                          /* may run in ring 3 again; rax: vCPU index */
        testb   $3, 24(%rsp)
        jz      DieInRingZero
        movq    %rax, %rdi
        addq    $16, %rsp
        iretq

DieInRingZero:
        movl    $VERDICT_EXCEPTION, %eax
        movw    $EXIT_PORT, %dx
        outl    %eax, %dx
EndOfVcpu:
        cli
1:      hlt
        jmp     1b

        .section .note.GNU-stack, "", @progbits
