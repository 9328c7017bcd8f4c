# How every room, plugin and test is declared, in one place.

include(CheckCCompilerFlag)

# The warnings of the project, as a target only its own code links.
add_library(svc_warnings INTERFACE)
target_compile_options(svc_warnings INTERFACE
	-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wundef -Wvla
	-Wstrict-prototypes -Wmissing-prototypes -Wwrite-strings -Wcast-qual
	-Wformat=2)
if(SVC_WERROR)
	target_compile_options(svc_warnings INTERFACE -Werror)
endif()
target_compile_definitions(svc_warnings INTERFACE _GNU_SOURCE)
if(SVC_SANITIZE)
	target_compile_options(svc_warnings INTERFACE
		-fsanitize=${SVC_SANITIZE} -fno-omit-frame-pointer
		-fno-sanitize-recover=all)
	target_link_options(svc_warnings INTERFACE -fsanitize=${SVC_SANITIZE})
endif()
if(SVC_FUZZ)
	if(NOT CMAKE_C_COMPILER_ID MATCHES Clang)
		message(FATAL_ERROR "SVC_FUZZ needs clang as the C compiler, "
			"which is ${CMAKE_C_COMPILER_ID} now")
	endif()
	# Coverage everywhere, so that the fuzzer sees into the library.
	target_compile_options(svc_warnings INTERFACE -fsanitize=fuzzer-no-link)
	target_link_options(svc_warnings INTERFACE -fsanitize=fuzzer-no-link)
endif()

# The rooms call each other's small functions in each call of a service, so the
# compiler may copy more of them into their callers than with CMake's -O2: some
# 3 % fewer instructions a call. Objects are whole by themselves too, for the
# archive.
set(SVC_LTO_OPTIONS "")
if(SVC_LTO AND CMAKE_C_COMPILER_ID STREQUAL GNU AND NOT SVC_SANITIZE)
	set(SVC_LTO_OPTIONS
		$<$<CONFIG:Release,RelWithDebInfo>:-O3>
		$<$<CONFIG:Release,RelWithDebInfo>:-flto=auto>
		$<$<CONFIG:Release,RelWithDebInfo>:-ffat-lto-objects>)
	# Structs of some hundred bytes, of which a call sets a few, are cleared by
	# stores: "rep stos", gcc's choice, takes some 30 cycles to begin.
	if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|amd64|AMD64)$")
		set(SVC_CLEARING vector_loop:256:noalign,libcall:-1:noalign)
		list(APPEND SVC_LTO_OPTIONS
			$<$<CONFIG:Release,RelWithDebInfo>:-mmemset-strategy=${SVC_CLEARING}>)
	endif()
endif()

# svc_room(NAME SOURCES ... [ROOMS ...] [LIBS ...])
# A room of the framework: objects that see the public headers of the rooms
# they link and no others. All of them make up libsvc.
function(svc_room name)
	cmake_parse_arguments(arg "" "" "SOURCES;ROOMS;LIBS" ${ARGN})
	add_library(svc_${name} OBJECT ${arg_SOURCES})
	set_target_properties(svc_${name} PROPERTIES
		C_VISIBILITY_PRESET hidden POSITION_INDEPENDENT_CODE ON)
	target_include_directories(svc_${name} PUBLIC
		${CMAKE_CURRENT_SOURCE_DIR}/include)
	target_link_libraries(svc_${name} PRIVATE svc_warnings)
	# Nobody replaces functions of libsvc: they call each other directly.
	target_compile_options(svc_${name} PRIVATE -fno-semantic-interposition
		${SVC_LTO_OPTIONS})
	foreach(room ${arg_ROOMS})
		target_include_directories(svc_${name} PUBLIC
			${PROJECT_SOURCE_DIR}/framework/${room}/include)
	endforeach()
	foreach(lib ${arg_LIBS})
		target_link_libraries(svc_${name} PRIVATE ${lib})
		set_property(GLOBAL APPEND PROPERTY SVC_LIBS ${lib})
	endforeach()
	set_property(GLOBAL APPEND PROPERTY SVC_ROOMS ${name})
endfunction()

# svc_plugin(ROOM NAME SOURCES ... [LIBS ...])
# A plugin module libsvc_<room>_<name>.so in the folder "svc" beside libsvc.
function(svc_plugin room name)
	cmake_parse_arguments(arg "" "" "SOURCES;LIBS" ${ARGN})
	add_library(svc_${room}_${name} MODULE ${arg_SOURCES})
	set_target_properties(svc_${room}_${name} PROPERTIES
		C_VISIBILITY_PRESET hidden
		LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/lib/svc
		INSTALL_RPATH "$ORIGIN/..")
	target_link_libraries(svc_${room}_${name} PRIVATE
		svc_warnings svc ${arg_LIBS})
	install(TARGETS svc_${room}_${name}
		LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}/svc)
	set_property(GLOBAL APPEND PROPERTY SVC_PLUGIN_TARGETS
		svc_${room}_${name})
endfunction()

# svc_test(NAME SOURCES ... [LIBS ...] [LABELS ...] [TIMEOUT s] [INTERNAL])
# A cmocka test program. It links the shared library; with INTERNAL the static
# one, and then may include the private headers beside it.
function(svc_test name)
	if(NOT SVC_BUILD_TESTS)
		return()
	endif()
	cmake_parse_arguments(arg "INTERNAL" "TIMEOUT" "SOURCES;LIBS;LABELS" ${ARGN})
	add_executable(test_${name} ${arg_SOURCES}
		${PROJECT_SOURCE_DIR}/tests/support/lines.c
		${PROJECT_SOURCE_DIR}/tests/support/scarce.c)
	target_include_directories(test_${name} PRIVATE
		${PROJECT_SOURCE_DIR}/tests)
	if(arg_INTERNAL)
		target_link_libraries(test_${name} PRIVATE svc_warnings svc_static
			PkgConfig::CMOCKA ${arg_LIBS})
	else()
		target_link_libraries(test_${name} PRIVATE svc_warnings svc
			PkgConfig::CMOCKA ${arg_LIBS})
	endif()
	set_property(GLOBAL APPEND PROPERTY SVC_TEST_TARGETS test_${name})
	add_test(NAME ${name} COMMAND test_${name})
	if(NOT arg_TIMEOUT)
		set(arg_TIMEOUT 60)
	endif()
	set_tests_properties(${name} PROPERTIES TIMEOUT ${arg_TIMEOUT}
		ENVIRONMENT "SVC_SOURCE_DIR=${PROJECT_SOURCE_DIR};SVC_BUILD_DIR=${PROJECT_BINARY_DIR};SVC_PLUGIN_PATH=${PROJECT_BINARY_DIR}/lib/svc")
	if(arg_LABELS)
		set_tests_properties(${name} PROPERTIES LABELS "${arg_LABELS}")
	endif()
endfunction()

# svc_fuzz(NAME SOURCES ...): a decoder of outside bytes. With clang and
# SVC_FUZZ a libFuzzer program fuzz_NAME; always a test that replays the
# corpus tests/fuzz/corpus/NAME.
function(svc_fuzz name)
	if(NOT SVC_BUILD_TESTS)
		return()
	endif()
	cmake_parse_arguments(arg "" "" "SOURCES;LIBS" ${ARGN})
	add_executable(replay_${name} ${arg_SOURCES}
		${PROJECT_SOURCE_DIR}/tests/fuzz/replay.c)
	target_include_directories(replay_${name} PRIVATE
		${CMAKE_CURRENT_SOURCE_DIR})
	target_link_libraries(replay_${name} PRIVATE svc_warnings svc_static
		${arg_LIBS})
	set_property(GLOBAL APPEND PROPERTY SVC_TEST_TARGETS replay_${name})
	add_test(NAME fuzz_${name} COMMAND replay_${name}
		${PROJECT_SOURCE_DIR}/tests/fuzz/corpus/${name})
	set_tests_properties(fuzz_${name} PROPERTIES TIMEOUT 60 LABELS fuzz)
	if(SVC_FUZZ)
		add_executable(fuzz_${name} ${arg_SOURCES})
		target_include_directories(fuzz_${name} PRIVATE
			${CMAKE_CURRENT_SOURCE_DIR})
		target_link_libraries(fuzz_${name} PRIVATE svc_warnings
			svc_static ${arg_LIBS})
		target_compile_options(fuzz_${name} PRIVATE -fsanitize=fuzzer)
		target_link_options(fuzz_${name} PRIVATE -fsanitize=fuzzer)
	endif()
endfunction()
