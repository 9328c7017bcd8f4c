# What `cmake --install` puts where. The tree can be moved afterwards: nothing
# in it names the prefix. Plugins install themselves (svc_plugin).

include(CMakePackageConfigHelpers)

set(SVC_PLUGIN_INSTALL_DIR ${CMAKE_INSTALL_LIBDIR}/svc)
set(config_dir ${CMAKE_INSTALL_LIBDIR}/cmake/svc)

# The folder is there even when every plugin is switched off.
install(DIRECTORY DESTINATION ${SVC_PLUGIN_INSTALL_DIR})
install(TARGETS svc EXPORT svcTargets
	LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
get_property(rooms GLOBAL PROPERTY SVC_ROOMS)
foreach(room ${rooms})
	install(DIRECTORY framework/${room}/include/svc
		DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
		FILES_MATCHING PATTERN "*.h")
endforeach()

# The tool finds the library wherever the tree was moved to.
if(TARGET svc_tool)
	file(RELATIVE_PATH bin_to_lib
		/${CMAKE_INSTALL_BINDIR} /${CMAKE_INSTALL_LIBDIR})
	set_target_properties(svc_tool PROPERTIES
		INSTALL_RPATH "$ORIGIN/${bin_to_lib}")
endif()

install(EXPORT svcTargets NAMESPACE svc:: DESTINATION ${config_dir})
configure_package_config_file(cmake/svcConfig.cmake.in
	${CMAKE_CURRENT_BINARY_DIR}/svcConfig.cmake
	INSTALL_DESTINATION ${config_dir}
	PATH_VARS SVC_PLUGIN_INSTALL_DIR)
# Before 1.0 a minor release may break.
write_basic_package_version_file(
	${CMAKE_CURRENT_BINARY_DIR}/svcConfigVersion.cmake
	COMPATIBILITY SameMinorVersion)
install(FILES
	${CMAKE_CURRENT_BINARY_DIR}/svcConfig.cmake
	${CMAKE_CURRENT_BINARY_DIR}/svcConfigVersion.cmake
	DESTINATION ${config_dir})

if(IS_ABSOLUTE "${CMAKE_INSTALL_LIBDIR}")
	set(pc_prefix ${CMAKE_INSTALL_PREFIX})
	set(pc_libdir ${CMAKE_INSTALL_LIBDIR})
else()
	file(RELATIVE_PATH pc_up /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
	string(REGEX REPLACE "/$" "" pc_up "${pc_up}")
	set(pc_prefix "\${pcfiledir}/${pc_up}")
	set(pc_libdir "\${prefix}/${CMAKE_INSTALL_LIBDIR}")
endif()
if(IS_ABSOLUTE "${CMAKE_INSTALL_INCLUDEDIR}")
	set(pc_includedir ${CMAKE_INSTALL_INCLUDEDIR})
else()
	set(pc_includedir "\${prefix}/${CMAKE_INSTALL_INCLUDEDIR}")
endif()
configure_file(cmake/svc.pc.in ${CMAKE_CURRENT_BINARY_DIR}/svc.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/svc.pc
	DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
