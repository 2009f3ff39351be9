/* A plugin of qemu-user's: how many instructions the emulated program executes between two marks.

   A mark is a system call that there is not, number 7777; each writes a line to the file given by `out=`: how many
   instructions have been executed so far. What is declared here is the part of qemu-plugin.h (API 1) that is used. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
enum { MARK = 7777, INLINE_ADD = 0 };

typedef uint64_t plugin_id;
struct block;
struct instruction;
typedef void on_block(plugin_id, struct block *);
typedef void on_call(plugin_id, unsigned, int64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                     uint64_t);
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, on_block *);
void qemu_plugin_register_vcpu_syscall_cb(plugin_id, on_call *);
size_t qemu_plugin_tb_n_insns(const struct block *);
void qemu_plugin_register_vcpu_tb_exec_inline(struct block *, int, void *, uint64_t);

EXPORT int qemu_plugin_version = 1;

static uint64_t executed;
static FILE *out;

static void translated(plugin_id id, struct block *block) {
  (void)id;
  qemu_plugin_register_vcpu_tb_exec_inline(block, INLINE_ADD, &executed, qemu_plugin_tb_n_insns(block));
}

static void called(plugin_id id, unsigned cpu, int64_t number, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e,
                   uint64_t f, uint64_t g, uint64_t h) {
  (void)id, (void)cpu, (void)a, (void)b, (void)c, (void)d, (void)e, (void)f, (void)g, (void)h;
  if (number == MARK) fprintf(out, "%lu\n", (unsigned long)executed), fflush(out);
}

EXPORT int qemu_plugin_install(plugin_id id, const void *info, int count, char **given) {
  (void)info;
  if (count != 1 || strncmp(given[0], "out=", 4) || !(out = fopen(given[0] + 4, "w"))) return 1;
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_vcpu_syscall_cb(id, called);
  return 0;
}
