/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_PLUGIN_H
#define SVC_PLUGIN_H

#include <svc/error.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * The plugin catalogue: finds an implementation by (interface, name).
 *
 * Every ops struct begins with these three members. `abi` holds the interface
 * in its upper and the version in its lower 16 bits; it changes only for a
 * break. `size` is sizeof the struct when the plugin was compiled: members are
 * only ever appended, so a smaller one is an older plugin whose last optional
 * members are absent.
 */
struct svc_plugin_head {
	uint32_t abi;
	uint32_t size;
	const char *name; /* unique in its interface; [a-z][a-z0-9_]*, max 32 */
};
#define SVC_ABI(interface_id, version) \
	((uint32_t)(interface_id) << 16 | (uint32_t)(version))

/** What a room says of its interface. Static const. */
struct svc_interface {
	const char *name; /* "registry": part of the file name */
	uint32_t abi;
	uint32_t min_size; /* up to the last required member */
	const struct svc_required {
		const char *name;
		size_t offset;       /* of a function pointer */
	} * required;                /* ended by a NULL name */
	const void *const *embedded; /* ops that come with the library, ended by
				      * NULL; may be NULL */
};
/* clang-format off */
#define SVC_REQUIRED(type, member) { #member, offsetof(type, member) }
/* clang-format on */

/**
 * What a plugin module exports: one function that returns its ops. A module is
 * a shared object called libsvc_<interface>_<name>.so; write
 * `SVC_PLUGIN(my_ops)` once in it, in C or C++, outside any namespace.
 */
#define SVC_PLUGIN(ops)                                     \
	SVC_PLUGIN_C_ SVC_API const void *svc_plugin(void); \
	SVC_PLUGIN_C_ const void *svc_plugin(void)          \
	{                                                   \
		return &(ops);                              \
	}                                                   \
	struct svc_plugin_head
#ifdef __cplusplus
#define SVC_PLUGIN_C_ extern "C"
#else
#define SVC_PLUGIN_C_
#endif

/** Checks an ops struct against its interface, in release builds too.
 * Errors: SVC_E_ABI, with the plugin, the member and the reason */
SVC_API svc_err svc_catalogue_check(const struct svc_interface *interface,
    const void *ops, struct svc_error *err);
/** Adds ops that the program links itself; they are borrowed for ever and win
 * over modules of the same name.
 * Errors: SVC_E_ABI, SVC_E_EXISTS (other ops of that name), SVC_E_NOMEM */
SVC_API svc_err svc_catalogue_add(const struct svc_interface *interface,
    const void *ops, struct svc_error *err);
/**
 * Finds by name: those added, those embedded, then a module in the folders of
 * SVC_PLUGIN_PATH (colon-separated) and in the folder "svc" beside the
 * library (beside the program where it is linked statically). A module stays
 * loaded for the life of the process.
 * Errors: SVC_E_NOT_FOUND (the text lists what there is and where it looked),
 * SVC_E_ABI, SVC_E_INVAL (a name that cannot be one), SVC_E_NOMEM
 */
SVC_API svc_err svc_catalogue_find(const struct svc_interface *interface,
    const char *name, const void **ret_ops, struct svc_error *err);
/** Calls `each` with the name of every implementation that can be found,
 * sorted, once each; modules are named by their file and not loaded. */
SVC_API svc_err svc_catalogue_list(const struct svc_interface *interface,
    void (*each)(const char *name, void *arg), void *arg);

#ifdef __cplusplus
}
#endif
#endif
